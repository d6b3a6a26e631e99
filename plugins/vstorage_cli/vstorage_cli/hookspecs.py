"""The hook that vstorage_cli adds: commands of other plugins."""

from __future__ import annotations

from collections.abc import Iterable

import click

from vstorage_core import hookspec


@hookspec
def vstorage_register_commands() -> Iterable[click.Command]:
    """Return commands for `vstorage`. Called at each of its runs, also for the help: import late, open nothing.

    What a command gets as `click.pass_obj` is a `vstorage_cli.context.CommandContext`, which opens databases and
    applications. Mark the implementation `@hookimpl(optionalhook=True)`, so that your plugin works without
    vstorage_cli. A name that is taken makes the plugin count as broken, as raising does.
    """
    raise NotImplementedError
