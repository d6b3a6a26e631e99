"""The contracts that every plugin signs, from the kit of the core."""

import pytest

import vstorage_rest.plugin
from vstorage_core.testing import LifecycleContract, PluginContract, RouterContract


class Rest:
    @pytest.fixture
    def plugin(self):
        return vstorage_rest.plugin


class TestRest(Rest, PluginContract):
    pass


class TestRestRouters(Rest, RouterContract):
    # There only to be refused: `batch` is no key.
    undocumented = ("GET /kit_parts/batch", "PUT /kit_parts/batch", "PATCH /kit_parts/batch")
    open_paths = ("/db/health", "/db/live", "/db/ready")


class TestRestHooks(Rest, LifecycleContract):
    pass
