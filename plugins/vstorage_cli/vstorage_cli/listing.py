"""`vstorage plugins`: what is installed, what it does, and what is broken."""

from __future__ import annotations

import json

import click

from vstorage_cli.context import CommandContext
from vstorage_core import PluginInfo


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def plugins(context: CommandContext, as_json: bool) -> None:
    """List the installed plugins.

    In the order in which their hooks run, with the routes that every application gets. Works when some are broken, and
    says which and why.
    """
    catalogue = context.catalogue
    catalogue.find_routes()
    if as_json:
        click.echo(json.dumps([plugin._asdict() for plugin in catalogue.plugins], indent=2))
    else:
        for plugin in catalogue.plugins:
            click.echo(_entry(plugin))
        for name in catalogue.disabled:
            click.echo(f"{name}: disabled by VSTORAGE_DISABLED_PLUGINS")
    catalogue.refuse_broken()


def _entry(plugin: PluginInfo) -> str:
    lines = [f"{plugin.name}: {plugin.distribution} {plugin.version}"]
    for what, names in (
        ("exporters", plugin.exporters),
        ("importers", plugin.importers),
        ("routes", plugin.routes),
        ("hooks", [hook.removeprefix("vstorage_") for hook in plugin.hooks]),
    ):
        if names:
            lines.append(f"  {what + ':':<10} {', '.join(names)}")
    return "\n".join(lines)
