"""What every plugin must do: load, be found and listed, start and stop, share nothing, be left out."""

import gc
import importlib.metadata
import threading
import weakref
from typing import Any

import pytest
from pydantic import BaseModel

from vstorage_core import Storage
from vstorage_core.plugins import CORE, DISABLED_VARIABLE, ENTRY_POINT_GROUP
from vstorage_core.testing.machine import OpenStorage, PluginFixtures, entry_point_of, problems_in, use


class PluginContract(PluginFixtures):
    """The contract of every plugin.

    Attributes:
        is_installed: Whether the plugin comes in a distribution of its own; False for one that an application has in
            its own code and gives to `Storage(plugins=[...])`.
    """

    is_installed = True

    @pytest.fixture
    def entry_point(self, plugin: object) -> importlib.metadata.EntryPoint:
        """That by which vstorage finds the plugin."""
        if not self.is_installed:
            pytest.skip("the plugin has no distribution of its own")
        found = entry_point_of(plugin)
        assert found is not None, (
            f"no entry point of the group {ENTRY_POINT_GROUP!r} leads to {plugin!r};"
            " declare it in pyproject.toml and install the distribution"
        )
        return found

    def test_it_loads_and_implements_a_hook(self, plugin: object, open_machine: OpenStorage) -> None:
        # A hook or argument that does not exist is refused here.
        (loaded,) = (each for each in open_machine().plugin_registry.loaded if each.plugin is plugin)
        implemented = loaded.hooks or getattr(plugin, "hookspecs", None)
        assert implemented, f"{plugin!r} implements no hook; is @hookimpl missing, or is another module the plugin?"

    def test_it_is_listed_with_its_distribution_and_version(
        self, entry_point: importlib.metadata.EntryPoint, companions: list[object], config: dict[str, Any]
    ) -> None:
        storage = Storage("sqlite://", entry_points=[entry_point], plugins=companions, config=config)
        (listed,) = (each for each in storage.plugins() if each.name == entry_point.name)
        assert entry_point.dist is not None
        assert (listed.distribution, listed.version) == (entry_point.dist.name, entry_point.dist.version)
        required = [text for text in entry_point.dist.requires or () if text.replace("_", "-").startswith(CORE)]
        assert required, f"{listed.distribution} must require {CORE}, or nobody sees which versions fit"

    def test_it_starts_and_shuts_down_twice(self, open_machine: OpenStorage, caplog: pytest.LogCaptureFixture) -> None:
        storage = open_machine()
        threads = set(threading.enumerate())
        for _ in range(2):
            storage.start()
            use(storage)
            storage.health()
            storage.close()
            assert problems_in(caplog) == []
            assert set(threading.enumerate()) - threads == set(), "threads that its shutdown does not end"

    def test_two_storages_share_nothing(self, open_machine: OpenStorage, caplog: pytest.LogCaptureFixture) -> None:
        one, other = open_machine(), open_machine()
        for storage in (one, other):
            storage.start()
            use(storage)
        immutable = (bool, int, float, str, bytes, tuple, frozenset, type(None))
        kept = {id(value) for value in one.extensions.values() if not isinstance(value, immutable)}
        shared = [name for name, value in other.extensions.items() if id(value) in kept]
        assert shared == [], "kept in the extensions of two storages at once"
        one.close()
        use(other)
        other.health()
        assert problems_in(caplog) == [], "the other one suffers when one closes"

    def test_it_lets_go_of_a_storage_that_is_closed(self, new_storage: OpenStorage) -> None:
        def opened_and_closed() -> weakref.ref[Storage]:
            with new_storage() as storage:
                storage.start()
                use(storage)
                storage.plugins()
            return weakref.ref(storage)

        remembered = opened_and_closed()
        gc.collect()
        assert remembered() is None, (
            "something keeps the closed storage, with its connections and caches;"
            " what belongs to a storage stands in storage.extensions, not in a global"
        )

    def test_its_settings_refuse_what_they_do_not_know(self, new_storage: OpenStorage) -> None:
        read: dict[str, type[BaseModel]] = {}

        class Observed(Storage):
            def settings(self, section: str, model: type[Any], **overrides: Any) -> Any:
                read[section] = model
                return super().settings(section, model, **overrides)

        with new_storage(kind=Observed) as storage:
            storage.start()
            use(storage)
            storage.plugins()
            storage.health()
        loose = [model.__name__ for model in read.values() if model.model_config.get("extra") != "forbid"]
        assert loose == [], 'a misspelled setting would do nothing; add model_config = ConfigDict(extra="forbid")'

    def test_a_database_that_was_used_with_it_opens_without_it(
        self, entry_point: importlib.metadata.EntryPoint, open_machine: OpenStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        storage = open_machine()
        storage.start()
        use(storage)
        storage.close()
        monkeypatch.setenv(DISABLED_VARIABLE, entry_point.name)
        with Storage(storage.url, entry_points=[entry_point]) as without:
            assert without.plugins() == []
            use(without)
