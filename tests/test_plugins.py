"""Plugins as pip installs them: found by entry point, checked before anything runs, called in one order, listed."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import importlib_metadata
import pytest
from fastapi import FastAPI
from models import User
from pydantic import BaseModel, ConfigDict, Field

from vstorage_core import (
    ConfigurationError,
    ModelAccessor,
    PluginConflictError,
    PluginError,
    PluginInfo,
    Storage,
    bootstrap,
    hookimpl,
    hookspecs,
)

IMPORTS = """
from vstorage_core import Exporter, HealthCheck, Importer, hookimpl, hookspec
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts a distribution on sys.path as pip does: `*.dist-info` with entry points, and the plugin's module.

    Nothing else that is installed on this machine is loaded.
    """
    installed = {entry_point.name for entry_point in importlib_metadata.entry_points(group="vstorage.plugins")}
    monkeypatch.setenv("VSTORAGE_DISABLED_PLUGINS", ",".join(sorted(installed)))
    modules_before = set(sys.modules)
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install(distribution: str, version: str, plugin: str, code: str, target: str | None = None) -> None:
        module = distribution.replace("-", "_")
        (site / f"{module}.py").write_text(IMPORTS + textwrap.dedent(code))
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[vstorage.plugins]\n{plugin} = {target or module}\n")
        importlib.invalidate_caches()

    yield install
    for name in set(sys.modules) - modules_before:
        if getattr(sys.modules[name], "__file__", None) and str(site) in str(sys.modules[name].__file__):
            del sys.modules[name]


@pytest.fixture
def refused(install, make_database) -> Callable[..., str]:
    """Installs a plugin that cannot be loaded and gives the text of the refusal."""

    def refused(code: str, target: str | None = None) -> str:
        install("acme-labels", "1.2", "labels", code, target)
        with pytest.raises(PluginError) as caught:
            Storage(make_database("sqlite"))
        return str(caught.value)

    return refused


# Found and listed


def test_an_installed_plugin_is_loaded_and_listed(install, make_database):
    install(
        "acme-labels",
        "1.2",
        "labels",
        """
        def write(storage, stream, options): stream.write(b"labels")

        @hookimpl
        def vstorage_register_exporters():
            yield Exporter(name="labels", filename="labels.txt", media_type="text/plain", write=write)

        @hookimpl
        def vstorage_after_insert(instance): ...
        """,
    )
    with Storage(make_database("sqlite")) as storage:
        assert storage.plugins() == [
            PluginInfo(
                name="labels",
                distribution="acme-labels",
                version="1.2",
                hooks=("vstorage_after_insert", "vstorage_register_exporters"),
                exporters=("labels",),
                importers=(),
            )
        ]
        assert list(storage.exporters) == ["labels"]


def test_an_instance_may_be_the_plugin(install, make_database):
    install(
        "acme-labels",
        "1.2",
        "labels",
        """
        class Labels:
            started = False

            @hookimpl
            def vstorage_startup(self, storage): self.started = True

        plugin = Labels()
        """,
        target="acme_labels:plugin",
    )
    with Storage(make_database("sqlite")) as storage:
        storage.start()
        assert importlib.import_module("acme_labels").plugin.started


def test_plugins_run_by_name_whatever_order_they_were_found_in(install, make_database):
    for distribution, plugin in (("acme-one", "zebra"), ("zeta", "ant"), ("beta", "mole")):
        install(
            distribution,
            "1",
            plugin,
            f"""
            @hookimpl
            def vstorage_before_insert(instance): instance.name += " {plugin}"
            """,
        )
    with Storage(make_database("sqlite")) as storage:
        storage.create_tables()
        assert [plugin.name for plugin in storage.plugins()] == ["ant", "mole", "zebra"]
        user = ModelAccessor(User, "users", storage=storage).insert(User(name="Ana", email="a@example.com"))
    assert user.name == "Ana ant mole zebra"


def test_a_disabled_plugin_is_not_even_imported(install, make_database, monkeypatch):
    install("acme-labels", "1.2", "labels", "raise RuntimeError('imported')")
    disabled = importlib_metadata.entry_points(group="vstorage.plugins").names
    monkeypatch.setenv("VSTORAGE_DISABLED_PLUGINS", " , ".join(disabled))
    with Storage(make_database("sqlite")) as storage:
        assert storage.plugins() == []


def test_candidates_may_be_given_instead_of_the_installed_ones(install, make_database):
    install("acme-labels", "1.2", "labels", "raise RuntimeError('imported')")
    candidate = importlib_metadata.EntryPoint("mine", "string", "vstorage.plugins")
    with Storage(make_database("sqlite"), entry_points=[candidate]) as storage:
        assert [(plugin.name, plugin.distribution) for plugin in storage.plugins()] == [("mine", None)]


# Refused, each with a text that names who, what and the way out


def test_a_plugin_that_cannot_be_imported(refused):
    assert refused("raise RuntimeError('no licence')") == (
        "plugin 'labels' (acme-labels 1.2) cannot be imported from 'acme_labels': RuntimeError: no licence;"
        " upgrade acme-labels, or set VSTORAGE_DISABLED_PLUGINS=labels to start without it"
    )


def test_a_plugin_whose_module_or_attribute_is_missing(refused):
    assert "cannot be imported from 'acme_labels:plug': AttributeError" in refused("plugin = 1", "acme_labels:plug")


def test_a_plugin_that_needs_a_package_that_is_not_installed(refused):
    assert "ModuleNotFoundError: No module named 'no_such_package'" in refused("import no_such_package")


def test_a_class_in_place_of_an_instance(refused):
    code = """
    class Labels:
        @hookimpl
        def vstorage_startup(self, storage): ...
    """
    assert (
        refused(code, "acme_labels:Labels")
        == "plugin 'labels' (acme-labels 1.2) is the class Labels; register an instance of it"
    )


@pytest.mark.parametrize("body", ["...", "yield 1"])
def test_an_async_hook(refused, body):
    code = f"""
    @hookimpl
    async def vstorage_after_insert(instance): {body}
    """
    assert refused(code) == (
        "plugin 'labels' (acme-labels 1.2): vstorage_after_insert is async; hooks are plain functions."
        " upgrade acme-labels, or set VSTORAGE_DISABLED_PLUGINS=labels to start without it"
    )


def test_an_unknown_hook(refused):
    code = """
    @hookimpl
    def vstorage_after_instert(instance): ...
    """
    assert refused(code) == (
        "plugin 'labels' (acme-labels 1.2) implements the unknown hook vstorage_after_instert; it may be misspelled,"
        " or belong to a plugin that is not installed (then mark it @hookimpl(optionalhook=True));"
        " upgrade acme-labels, or set VSTORAGE_DISABLED_PLUGINS=labels to start without it"
    )


def test_an_unknown_argument(refused):
    code = """
    @hookimpl
    def vstorage_after_insert(record): ...
    """
    assert refused(code) == (
        "plugin 'labels' (acme-labels 1.2): vstorage_after_insert has the unknown argument 'record';"
        " it may name accessor, session, instance, actor"
    )


def test_arguments_that_pluggy_cannot_give(refused):
    code = """
    @hookimpl
    def vstorage_after_insert(*, instance): ...
    """
    assert "vstorage_after_insert must take plain arguments, not instance" in refused(code)


def test_a_hook_that_is_not_marked(refused):
    assert refused("def vstorage_after_insert(instance): ...") == (
        "plugin 'labels' (acme-labels 1.2): vstorage_after_insert is not marked; decorate it with @hookimpl"
    )


def test_two_plugins_of_one_name(install, make_database):
    install("acme-labels", "1.2", "labels", "")
    install("better-labels", "2.0", "labels", "")
    with pytest.raises(PluginConflictError) as caught:
        Storage(make_database("sqlite"))
    assert "(acme-labels 1.2)" in str(caught.value)
    assert "(better-labels 2.0)" in str(caught.value)
    assert "has the same name as" in str(caught.value)
    assert "uninstall one of them or rename its entry point" in str(caught.value)


@pytest.mark.parametrize(
    ("hook", "item", "conflict", "read"),
    [
        (
            "exporters",
            "Exporter(name='same', filename=__name__, media_type='text/plain', write=print)",
            "exporter 'same'",
            lambda storage: storage.exporters,
        ),
        (
            "exporters",
            "Exporter(name=__name__, filename='same.txt', media_type='text/plain', write=print)",
            "export file 'same.txt'",
            lambda storage: storage.exporters,
        ),
        ("importers", "Importer(name='same', path=__name__, read=print)", "importer 'same'", lambda s: s.importers),
        ("importers", "Importer(name=__name__, path='same', read=print)", "import path 'same'", lambda s: s.importers),
        ("health_checks", "HealthCheck(name='same', check=dict)", "health check 'same'", lambda s: s.health()),
    ],
)
def test_two_plugins_that_provide_the_same(install, make_database, hook, item, conflict, read):
    for distribution, plugin in (("acme-labels", "labels"), ("zeta-labels", "zeta")):
        install(
            distribution,
            "1.0",
            plugin,
            f"""
            @hookimpl
            def vstorage_register_{hook}(): return [{item}]
            """,
        )
    with Storage(make_database("sqlite")) as storage, pytest.raises(PluginConflictError) as caught:
        read(storage)
    assert str(caught.value) == (
        f"{conflict} is provided by both plugin 'labels' (acme-labels 1.0) and plugin 'zeta' (zeta-labels 1.0);"
        " disable one with VSTORAGE_DISABLED_PLUGINS=zeta"
    )


def test_two_plugins_with_the_same_route(install, make_database):
    for distribution, plugin in (("acme-labels", "labels"), ("zeta-labels", "zeta")):
        install(
            distribution,
            "1.0",
            plugin,
            """
            from fastapi import APIRouter

            @hookimpl
            def vstorage_register_routers():
                router = APIRouter()
                router.get("/labels/{id}")(lambda id: id)
                yield router
            """,
        )
    app = FastAPI()
    routes = len(app.routes)
    with Storage(make_database("sqlite")) as storage, pytest.raises(ConfigurationError) as caught:
        bootstrap(app, accessors=[], storage=storage)
    for part in ("GET /labels/{id}", "plugin 'zeta' (zeta-labels 1.0)", "plugin 'labels' (acme-labels 1.0)"):
        assert part in str(caught.value)
    assert len(app.routes) == routes


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("7", "vstorage_register_exporters must return an iterable, not 7"),
        ("['csv']", "vstorage_register_exporters must give Exporter objects, not 'csv'"),
    ],
)
def test_a_plugin_that_provides_something_else(install, make_database, returned, message):
    install("acme-labels", "1.2", "labels", f"@hookimpl\ndef vstorage_register_exporters(): return {returned}")
    with Storage(make_database("sqlite")) as storage, pytest.raises(PluginError) as caught:
        list(storage.exporters)
    assert str(caught.value) == f"plugin 'labels' (acme-labels 1.2): {message}"


def test_a_given_plugin_is_refused_with_another_way_out(make_database):
    class Labels:
        @hookimpl
        def vstorage_after_instert(self, instance): ...

    with pytest.raises(PluginError, match=r"plugin 'Labels' implements .*; take it out of the storage's plugins to"):
        Storage(make_database("sqlite"), plugins=[Labels()], entry_points=[])


# Hooks of plugins for plugins


def test_a_plugin_may_bring_hooks_of_its_own_and_another_may_implement_them(install, make_database):
    install(
        "acme-printing",
        "1",
        "printing",
        """
        import sys
        hookspecs = sys.modules[__name__]

        @hookspec
        def vstorage_print_label(text): "Print it."
        """,
    )
    install(
        "acme-labels",
        "1",
        "labels",
        """
        @hookimpl
        def vstorage_print_label(text): return f"printed {text}"
        """,
    )
    with Storage(make_database("sqlite")) as storage:
        assert storage.plugin_registry.hook.vstorage_print_label(text="A-17") == ["printed A-17"]


def test_an_optional_hook_needs_no_plugin_that_calls_it(install, make_database):
    install(
        "acme-labels",
        "1",
        "labels",
        """
        @hookimpl(optionalhook=True)
        def vstorage_print_label(text): ...

        @hookimpl
        def vstorage_startup(storage): ...
        """,
    )
    with Storage(make_database("sqlite")) as storage:
        assert [plugin.hooks for plugin in storage.plugins()] == [("vstorage_startup",)]


# Lifecycle


class Recording:
    """A plugin that notes when it starts and stops."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    @hookimpl
    def vstorage_startup(self, storage):
        self.heard.append("startup")

    @hookimpl
    def vstorage_shutdown(self, storage):
        # The database is still there.
        storage.create_tables()
        self.heard.append("shutdown")

    @hookimpl
    def vstorage_after_replace(self, storage):
        self.heard.append("replaced")


def test_plugins_start_once_and_shut_down_once_per_start(make_database):
    plugin = Recording()
    with Storage(make_database("sqlite"), plugins=[plugin], entry_points=[]) as storage:
        storage.start()
        storage.start()
        assert plugin.heard == ["startup"]
        storage.close()
        storage.close()
        assert plugin.heard == ["startup", "shutdown"]
        storage.start()
    assert plugin.heard == ["startup", "shutdown", "startup", "shutdown"]


def test_a_storage_that_never_started_shuts_nothing_down(make_database):
    plugin = Recording()
    with Storage(make_database("sqlite"), plugins=[plugin], entry_points=[]) as storage:
        storage.create_tables()
    assert plugin.heard == []


def test_what_startup_raises_stops_the_start_and_shuts_down_who_had_started(make_database):
    recording = Recording()

    class Zed:
        licence = started = False

        @hookimpl
        def vstorage_startup(self, storage):
            if not self.licence:
                raise RuntimeError("no licence")
            self.started = True

    failing = Zed()
    with Storage(make_database("sqlite"), plugins=[recording, failing], entry_points=[]) as storage:
        with pytest.raises(RuntimeError, match="no licence"):
            bootstrap(accessors=[], storage=storage)
        failing.licence = True
        bootstrap(accessors=[], storage=storage)
        assert failing.started
    assert recording.heard[-1] == "shutdown"
    assert recording.heard.count("startup") == recording.heard.count("shutdown")


def test_what_shutdown_or_after_replace_raise_is_logged_and_stops_nobody(make_database, caplog):
    class Alpha:
        @hookimpl
        def vstorage_shutdown(self):
            raise RuntimeError("stuck valve")

        @hookimpl
        def vstorage_after_replace(self):
            raise RuntimeError("stale cache")

    recording = Recording()
    with (
        caplog.at_level(logging.ERROR, logger="vstorage"),
        Storage(make_database("sqlite"), plugins=[Alpha(), recording], entry_points=[]) as storage,
    ):
        storage.start()
        storage.replaced()
    assert recording.heard == ["startup", "replaced", "shutdown"]
    assert "stuck valve" in caplog.text
    assert "stale cache" in caplog.text
    assert "plugin 'Alpha'" in caplog.text


def test_every_hook_of_the_core_is_called_with_all_its_arguments(make_database):
    heard: dict[str, set[str]] = {}

    def listening(name: str, arguments: list[str]) -> Any:
        def note(*values: Any) -> list[Any] | None:
            assert None not in values
            heard[name] = set(arguments)
            return [] if "register" in name else None

        # pluggy gives arguments by the names in the signature.
        return hookimpl(eval(f"lambda self, {', '.join(arguments)}: note({', '.join(arguments)})", {"note": note}))

    specs = {
        name: list(inspect.signature(spec).parameters)
        for name, spec in vars(hookspecs).items()
        if hasattr(spec, "vstorage_spec")
    }
    plugin = type("Everything", (), {name: listening(name, arguments) for name, arguments in specs.items()})()
    with Storage(make_database("sqlite"), plugins=[plugin], entry_points=[]) as storage:
        users = ModelAccessor(User, "users", storage=storage)
        with pytest.raises(ConfigurationError, match="no installed plugin serves a web API"):
            bootstrap(FastAPI(), accessors=[users], storage=storage)
        user = users.insert(User(name="Ana", email="a@example.com"))
        users.update(user.id, name="Anna")
        users.delete(user.id)
        users.restore(user.id)
        storage.health()
        storage.plugins()
        storage.replaced()
    assert heard == {name: set(arguments) for name, arguments in specs.items()}


# Settings


class LabelSettings(BaseModel):
    model_config = ConfigDict(extra="forbid")

    printer: str = "front"
    copies: int = Field(default=1, ge=1, le=9)


def test_settings_come_from_the_configuration_and_the_environment_wins(make_database, monkeypatch):
    config = {"labels": {"printer": "back", "copies": 2}}
    with Storage(make_database("sqlite"), config=config, entry_points=[]) as storage:
        assert storage.settings("labels", LabelSettings) == LabelSettings(printer="back", copies=2)
        monkeypatch.setenv("VSTORAGE_LABELS__COPIES", "3")
        assert storage.settings("labels", LabelSettings) == LabelSettings(printer="back", copies=3)
        assert storage.settings("labels", LabelSettings, copies=4).copies == 4
        assert storage.settings("other", LabelSettings) == LabelSettings()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"printr": "x"}, "configuration 'labels': printr: Extra inputs are not permitted; it knows printer, copies"),
        ({"copies": 10}, "configuration 'labels': copies: Input should be less than or equal to 9"),
    ],
)
def test_a_setting_that_is_unknown_or_not_allowed_is_refused(make_database, section, message):
    with (
        Storage(make_database("sqlite"), config={"labels": section}, entry_points=[]) as storage,
        pytest.raises(ConfigurationError) as caught,
    ):
        storage.settings("labels", LabelSettings)
    assert str(caught.value).startswith(message)


def test_a_setting_in_the_environment_is_checked_like_any_other(make_database, monkeypatch):
    monkeypatch.setenv("VSTORAGE_ENGINE__DURABILTY", "normal")
    with pytest.raises(ConfigurationError, match=r"configuration 'engine': durabilty: .*it knows durability, timeout"):
        Storage(make_database("sqlite"), entry_points=[])
    monkeypatch.delenv("VSTORAGE_ENGINE__DURABILTY")
    monkeypatch.setenv("VSTORAGE_ENGINE__DURABILITY", "maybe")
    with pytest.raises(ConfigurationError, match="configuration 'engine': durability: Input should be 'full'"):
        Storage(make_database("sqlite"), entry_points=[])
