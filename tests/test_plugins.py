"""Plugins as pip installs them: found by entry point, called in one order, listed, traced, configured."""

from __future__ import annotations

import importlib
import importlib.metadata
import inspect
import logging
import os
import re
import subprocess
import sys
import time
from typing import Any

import pytest
from fastapi import FastAPI
from models import User
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from vstorage_core import (
    ConfigurationError,
    ModelAccessor,
    PluginInfo,
    Storage,
    bootstrap,
    hookimpl,
    hookspecs,
    with_defaults,
)
from vstorage_core.bootstrap import claimed_routes

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


def test_a_plugin_is_asked_once_what_it_contributes(make_database):
    asked = []

    class Labels:
        @hookimpl
        def vstorage_register_exporters(self):
            asked.append("exporters")
            return []

        @hookimpl
        def vstorage_register_importers(self):
            asked.append("importers")
            return []

        @hookimpl
        def vstorage_register_health_checks(self):
            asked.append("health checks")
            return []

    with Storage(make_database("sqlite"), plugins=[Labels()], entry_points=[]) as storage:
        for _ in range(2):
            assert (len(storage.plugins()), dict(storage.exporters), dict(storage.importers)) == (1, {}, {})
            assert storage.health().ok
    assert asked == ["exporters", "importers", "health checks"]


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
    disabled = importlib.metadata.entry_points(group="vstorage.plugins").names
    monkeypatch.setenv("VSTORAGE_DISABLED_PLUGINS", " , ".join(disabled))
    with Storage(make_database("sqlite")) as storage:
        assert storage.plugins() == []


def test_candidates_may_be_given_instead_of_the_installed_ones(install, make_database):
    install("acme-labels", "1.2", "labels", "raise RuntimeError('imported')")
    candidate = importlib.metadata.EntryPoint("mine", "string", "vstorage.plugins")
    with Storage(make_database("sqlite"), entry_points=[candidate]) as storage:
        assert [(plugin.name, plugin.distribution) for plugin in storage.plugins()] == [("mine", None)]


def test_routes_are_listed_once_they_are_served_those_of_nested_routers_too(install, make_database):
    for distribution, plugin in (("acme-labels", "labels"), ("zeta-printing", "printing")):
        install(
            distribution,
            "1.0",
            plugin,
            f"""
            from fastapi import APIRouter

            @hookimpl
            def vstorage_register_routers():
                inner = APIRouter()
                inner.put("/{{id}}")(lambda id: id)
                inner.websocket("/live")(lambda socket: None)
                router = APIRouter(prefix="/{plugin}")
                router.get("/")(lambda: "all")
                router.include_router(inner)
                return [router]
            """,
        )
    with Storage(make_database("sqlite")) as storage:
        assert [plugin.routes for plugin in storage.plugins()] == [(), ()]
        app = FastAPI()
        bootstrap(app, accessors=[], storage=storage)
        labels = ("GET /labels/", "PUT /labels/{id}", "* /labels/live")
        assert [plugin.routes for plugin in storage.plugins()] == [
            labels,
            tuple(route.replace("labels", "printing") for route in labels),
        ]
        assert set(claimed_routes(app)) == {route for plugin in storage.plugins() for route in plugin.routes}
    assert claimed_routes(FastAPI()) == {}


# Traced


class Slow:
    """A plugin that takes its time before an insert, and refuses users without a name."""

    @hookimpl
    def vstorage_before_insert(self, instance):
        time.sleep(0.02)
        if not instance.name:
            raise ValueError("no name")


def test_every_hook_call_is_logged_with_its_time_when_asked_for(make_database, monkeypatch, caplog):
    monkeypatch.setenv("VSTORAGE_TRACE_PLUGINS", "1")
    with Storage(make_database("sqlite"), plugins=[Slow(), Recording()], entry_points=[]) as storage:
        users = ModelAccessor(User, "users", storage=storage)
        users.before_insert()(lambda session, instance: None)
        bootstrap(accessors=[users], storage=storage)
        users.insert(User(name="Ana", email="a@example.com"))
        with pytest.raises(ValueError, match="no name"):
            users.insert(User(name="", email="b@example.com"))
    lines = [record.getMessage() for record in caplog.records if record.name == "vstorage.hooks"]
    assert [re.sub(r"\d+\.\d{3}", "…", line) for line in lines] == [
        "vstorage_startup took … ms in Recording",
        "vstorage_before_insert took … ms in a decorator, Slow",
        "vstorage_before_insert took … ms in a decorator, Slow, raised ValueError('no name')",
        "vstorage_shutdown took … ms in Recording",
    ]
    assert float(lines[1].split()[2]) >= 20


def test_a_trace_is_seen_where_the_application_has_not_set_logging_up(tmp_path):
    code = """
import sys
from vstorage_core import Storage, hookimpl
class Plugin:
    @hookimpl
    def vstorage_startup(self): ...
Storage("sqlite://", plugins=[Plugin()], entry_points=[]).start()
"""
    for value, lines in (("1", 1), ("0", 0), ("", 0)):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "VSTORAGE_TRACE_PLUGINS": value},
            capture_output=True,
            text=True,
            check=True,
        )
        assert len(done.stderr.splitlines()) == lines, done.stderr


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
            bootstrap(FastAPI(), accessors=[users], storage=storage, auto_migrate=True)
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


def test_a_section_that_nobody_reads_is_named_with_those_that_there_are(make_database, monkeypatch, caplog):
    monkeypatch.setenv("VSTORAGE_RECORDER__COPIES", "3")
    monkeypatch.setenv("VSTORAGE_RECORDING__COPIES", "3")
    config = {"engine": {}, "recordings": {}}
    with Storage(make_database("sqlite"), config=config, plugins=[Recording()], entry_points=[]) as storage:
        # Named as the plugin is, in small letters.
        storage.settings("recording", LabelSettings)
        storage.start()
    assert [record.getMessage() for record in caplog.records] == [
        f"nobody reads the section {section!r} of the configuration; there are Recording, engine, recording"
        for section in ("recorder", "recordings")
    ]


class LabelOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str
    copies: int = Field(default=1, ge=1, le=9, description="How many")
    printers: list[str] = Field(default_factory=list)


def test_settings_become_the_defaults_of_options_and_all_else_about_them_stays():
    class Defaults(BaseModel):
        copies: int = 3
        printers: list[str] = ["back"]
        unrelated: int = 1

    options = with_defaults(LabelOptions, Defaults())
    assert options(text="A-17") == options(text="A-17", copies=3, printers=["back"])
    assert issubclass(options, LabelOptions)
    assert list(options.model_fields) == ["text", "copies", "printers"]
    assert options.model_json_schema()["properties"]["copies"] == {
        **LabelOptions.model_json_schema()["properties"]["copies"],
        "default": 3,
    }
    for wrong in ({"text": "A-17", "copies": 10}, {"text": "A-17", "unrelated": 1}, {}):
        with pytest.raises(ValidationError):
            options.model_validate(wrong)
    assert LabelOptions(text="A-17").copies == 1
