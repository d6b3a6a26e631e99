"""The contract that every plugin signs, from the kit of the core."""

import pytest

import vstorage_cli.plugin
from vstorage_core.testing import PluginContract


class TestCli(PluginContract):
    @pytest.fixture
    def plugin(self):
        return vstorage_cli.plugin
