"""Contracts for plugins, as test classes: inherit one, give it your plugin, and pytest tells whether it fits.

from vstorage_core.testing import PluginContract

class TestLabels(PluginContract):
    @pytest.fixture
    def plugin(self):
        return acme_labels.plugin

Needs pytest: `pip install 'vstorage-core[testing]'`. What a contract needs to know beside the plugin has a default that
your class may override: fixtures, methods and attributes alike.
"""

import pytest

_CONTRACTS = ("plugin_contract", "transfer", "exporter_contract", "importer_contract", "router_contract",
              "lifecycle_contract", "machine")  # fmt: skip
# Before they are imported, so that their assertions show values as a test's own do.
pytest.register_assert_rewrite(*(f"{__name__}.{name}" for name in _CONTRACTS))

from vstorage_core.testing.exporter_contract import ExporterContract  # noqa: E402
from vstorage_core.testing.importer_contract import ImporterContract  # noqa: E402
from vstorage_core.testing.lifecycle_contract import LifecycleContract  # noqa: E402
from vstorage_core.testing.plugin_contract import PluginContract  # noqa: E402
from vstorage_core.testing.router_contract import RouterContract  # noqa: E402

__all__ = ["ExporterContract", "ImporterContract", "LifecycleContract", "PluginContract", "RouterContract"]
