"""The contract that every plugin signs, from the kit of the core."""

import json

import pytest

import vstorage_keys.plugin
import vstorage_rest.plugin
from vstorage_core.testing import PluginContract


class TestKeys(PluginContract):
    is_installed = False

    @pytest.fixture
    def plugin(self):
        return vstorage_keys.plugin

    @pytest.fixture
    def companions(self):
        return [vstorage_rest.plugin]

    @pytest.fixture
    def config(self, tmp_path):
        (tmp_path / "keys.json").write_text(json.dumps({"roles": {}, "keys": []}))
        return {"keys": {"file": tmp_path / "keys.json"}}
