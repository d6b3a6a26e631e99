"""Plugins that cannot work are refused before anything runs, each with a text that names who, what and the way out."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from fastapi import FastAPI

import vstorage_core
from vstorage_core import (
    ConfigurationError,
    PluginConflictError,
    PluginError,
    Storage,
    bootstrap,
    hookimpl,
)


@pytest.fixture
def refused(install, make_database) -> Callable[..., str]:
    """Installs a plugin that cannot be loaded and gives the text of the refusal."""

    def refused(code: str, target: str | None = None) -> str:
        install("acme-labels", "1.2", "labels", code, target)
        with pytest.raises(PluginError) as caught:
            Storage(make_database("sqlite"))
        return str(caught.value)

    return refused


def test_a_plugin_that_cannot_be_imported(refused):
    assert refused("raise RuntimeError('no licence')") == (
        "plugin 'labels' (acme-labels 1.2) cannot be imported from 'acme_labels': RuntimeError: no licence;"
        " upgrade acme-labels, or set VSTORAGE_DISABLED_PLUGINS=labels to start without it"
    )


def test_a_plugin_whose_module_or_attribute_is_missing(refused):
    assert "cannot be imported from 'acme_labels:plug': AttributeError" in refused("plugin = 1", "acme_labels:plug")


def test_a_plugin_that_needs_a_package_that_is_not_installed(refused):
    assert "ModuleNotFoundError: No module named 'no_such_package'" in refused("import no_such_package")


@pytest.mark.parametrize("requirement", ["vstorage-core>=99", "vstorage_core (==0.0.1)", "vstorage-core[rest]~=99.0"])
def test_a_plugin_that_is_made_for_another_core_is_not_even_imported(install, make_database, requirement):
    install("acme-labels", "1.2", "labels", "raise RuntimeError('imported')", requires=requirement)
    with pytest.raises(PluginError) as caught:
        Storage(make_database("sqlite"))
    assert re.fullmatch(
        rf"plugin 'labels' \(acme-labels 1\.2\) is made for vstorage-core [=~>]=[\d.]+, but this is vstorage-core"
        rf" {re.escape(vstorage_core.__version__)}; install versions that fit, or set"
        r" VSTORAGE_DISABLED_PLUGINS=labels to start without it",
        str(caught.value),
    )


@pytest.mark.parametrize(
    "requirement",
    [
        "vstorage-core>=0.0.1",
        "vstorage-core",
        "vstorage-core>=99; extra == 'future'",
        "vstorage-core>=99; python_version < '3'",
        "vstorage-core-labels>=99",
        "pluggy>=99",
    ],
)
def test_a_plugin_with_any_other_requirement_is_loaded(install, make_database, requirement):
    install("acme-labels", "1.2", "labels", "", requires=requirement)
    with Storage(make_database("sqlite")) as storage:
        assert [plugin.name for plugin in storage.plugins()] == ["labels"]


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


LABELS = """
from fastapi import APIRouter

@hookimpl
def vstorage_register_routers():
    labels = APIRouter(prefix="/labels")
    labels.get("/{id}")(lambda id: id)
    """

NESTED = """router = APIRouter()
    router.include_router(labels)
    """


@pytest.mark.parametrize("made", ["return [labels]", f"{NESTED}return [router]"], ids=["flat", "nested"])
def test_two_plugins_with_the_same_route(install, make_database, made):
    install("acme-labels", "1.0", "labels", LABELS + made)
    install("zeta-labels", "1.0", "zeta", LABELS + "return [labels]")
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
