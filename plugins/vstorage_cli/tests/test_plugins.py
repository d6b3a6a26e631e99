"""`vstorage plugins`, the commands that plugins bring, and plugins that are broken."""

import json
import subprocess
import sys

import pytest

DATABASE = ("--url", "sqlite:///machine.db")

COMMANDS = """
import click
from vstorage_core import hookimpl

@click.command()
@click.argument("url")
@click.pass_obj
def count(context, url):
    "Count the tables."
    with context.open_storage(url) as storage:
        click.echo(len(storage.tables()))

@hookimpl(optionalhook=True)
def vstorage_register_commands():
    yield count
"""

HOOKS_OF_ANOTHER = """
from vstorage_core import hookimpl

@hookimpl
def vstorage_polish(instance): ...
"""

SPECS = """
import sys, types
from vstorage_core import hookspec

hookspecs = types.ModuleType("specs")

@hookspec
def vstorage_polish(instance): ...

hookspecs.vstorage_polish = vstorage_polish
"""


def test_every_plugin_is_listed_with_its_origin_and_what_it_provides(invoke):
    done = invoke("plugins")
    assert done.exit_code == 0
    assert (
        "acme: acme-dist 1.5\n"
        "  exporters: acme\n"
        "  importers: acme\n"
        "  hooks:     register_exporters, register_health_checks, register_importers\n"
    ) in done.stdout
    names = [line.partition(":")[0] for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert names == sorted(names)
    assert {"acme", "cli", "hello", "rest"} <= set(names)


def test_the_list_as_json_has_the_fields_of_the_web_api(invoke):
    listed = {plugin["name"]: plugin for plugin in json.loads(invoke("plugins", "--json").stdout)}
    assert listed["acme"] == {
        "name": "acme",
        "distribution": "acme-dist",
        "version": "1.5",
        "hooks": ["vstorage_register_exporters", "vstorage_register_health_checks", "vstorage_register_importers"],
        "exporters": ["acme"],
        "importers": ["acme"],
        "routes": [],
    }
    assert listed["hello"]["routes"] == ["GET /hello"]
    assert "GET /db/acme.json" in listed["rest"]["routes"]


def test_a_disabled_plugin_is_listed_as_such_and_provides_nothing(invoke):
    disabled = {"VSTORAGE_DISABLED_PLUGINS": "acme"}
    assert "acme: disabled by VSTORAGE_DISABLED_PLUGINS\n" in invoke("plugins", **disabled).stdout
    assert invoke("export", "acme", **disabled).exit_code == 2


def test_a_plugin_brings_a_command(invoke, install):
    install("counting", COMMANDS)
    assert "count    Count the tables." in invoke("--help").stdout
    assert invoke("count", "sqlite:///machine.db").stdout == "3\n"


def test_the_list_works_where_no_web_framework_is_installed(invoke, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastapi", None)
    for module in [name for name in sys.modules if name.startswith(("vstorage_hello.router", "vstorage_rest."))]:
        package, _, name = module.rpartition(".")
        # Both places of a module, so that both are given back.
        monkeypatch.delattr(sys.modules[package], name, raising=False)
        monkeypatch.delitem(sys.modules, module)
    done = invoke("plugins")
    assert done.exit_code == 0
    assert "routes:" not in done.stdout
    assert "hello: vstorage-hello 1.0.0\n" in done.stdout


def test_a_plugin_that_fails_to_give_its_routes_is_named(invoke, install):
    install("zed", "from vstorage_core import hookimpl\n@hookimpl\ndef vstorage_register_routers(): return 1 / 0\n")
    done = invoke("plugins")
    assert done.exit_code == 2
    assert "plugin 'zed' (zed-dist 1.5) fails with ZeroDivisionError: division by zero; upgrade it, or" in done.stderr
    assert "GET /hello" in done.stdout


BROKEN = {
    "import": ("import nonsense_library", "plugin 'zed' (zed-dist 1.5) cannot be imported from 'zed_plugin': "),
    "unknown hook": (HOOKS_OF_ANOTHER, "plugin 'zed' (zed-dist 1.5) implements the unknown hook vstorage_polish; "),
    "raising": (
        "from vstorage_core import hookimpl\n@hookimpl\ndef vstorage_register_exporters(): return 1 / 0\n",
        "plugin 'zed' (zed-dist 1.5) fails with ZeroDivisionError: division by zero; upgrade it, or set ",
    ),
    "own command": (
        COMMANDS.replace("@click.command()", "@click.command('check')"),
        "command 'check' of plugin 'zed' (zed-dist 1.5) is one of vstorage's own; ",
    ),
    "same exporter": (
        "from acme_plugin import vstorage_register_exporters",
        "exporter 'acme' is provided by both plugin 'acme' (acme-dist 1.5) and plugin 'zed' (zed-dist 1.5); ",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_plugin_is_named_with_the_way_out_and_the_others_are_listed(invoke, install, kind):
    source, sentence = BROKEN[kind]
    install("zed", source)
    done = invoke("plugins")
    assert done.exit_code == 2
    assert f"Error: {sentence}" in done.stderr
    assert "VSTORAGE_DISABLED_PLUGINS=zed" in done.stderr
    assert "acme: acme-dist 1.5\n" in done.stdout
    assert "zed:" not in done.stdout


def test_a_broken_plugin_stops_an_export_until_it_is_disabled(invoke, folder, install):
    install("zed", BROKEN["import"][0])
    done = invoke("export", "hello", *DATABASE)
    assert done.exit_code == 2
    assert done.stderr == (
        "Error: plugin 'zed' (zed-dist 1.5) cannot be imported from 'zed_plugin': ModuleNotFoundError:"
        " No module named 'nonsense_library';"
        " upgrade zed-dist, or set VSTORAGE_DISABLED_PLUGINS=zed to start without it\n"
    )
    assert not (folder / "hello.txt").exists()
    assert invoke("export", "hello", *DATABASE, VSTORAGE_DISABLED_PLUGINS="zed").exit_code == 0


def test_the_help_works_with_a_broken_plugin_and_names_it(invoke, install):
    install("zed", BROKEN["import"][0])
    done = invoke("--help")
    assert done.exit_code == 0
    assert "BROKEN: plugin 'zed' (zed-dist 1.5)" in done.stdout
    assert "serve " in done.stdout
    assert invoke("export", "--help").exit_code == 0


def test_an_exporter_of_a_broken_plugin_is_answered_with_the_reason(invoke, install):
    install("zed", BROKEN["import"][0])
    done = invoke("export", "zed")
    assert done.exit_code == 2
    assert "There is no exporter 'zed'. Installed: acme, " in done.stderr
    assert "plugin 'zed' (zed-dist 1.5) cannot be imported" in done.stderr


def test_a_plugin_with_the_hooks_of_a_later_one_does_not_count_as_broken(invoke, install):
    install("aaa", HOOKS_OF_ANOTHER)
    install("zed", SPECS)
    install("broken", BROKEN["import"][0])
    done = invoke("plugins")
    assert "aaa: aaa-dist 1.5\n" in done.stdout
    assert done.stderr.count("plugin '") == 1


def test_a_wrong_setting_is_a_sentence_in_every_command(invoke):
    for arguments in (["plugins"], ["export", "hello", *DATABASE], ["check", *DATABASE]):
        done = invoke(*arguments, VSTORAGE_ENGINE__SPEED="high")
        assert done.exit_code == 2
        assert "configuration 'engine': speed: " in done.stderr
    assert invoke("--help", VSTORAGE_ENGINE__SPEED="high").exit_code == 0


def test_the_version_is_told_without_loading_plugins(run, install):
    install("zed", "raise SystemExit('loaded')")
    done = run("--version")
    assert (done.returncode, done.stdout) == (0, "vstorage 0.1.0\n")


def test_the_module_is_the_command(environment):
    done = subprocess.run([sys.executable, "-m", "vstorage_cli", "--help"], env=environment, capture_output=True)
    assert (done.returncode, done.stdout[:15]) == (0, b"Usage: vstorage")
