"""cli.md, from the help of the commands."""

from __future__ import annotations

from collections.abc import Iterator

import click

from vstorage_cli.main import vstorage

INTRODUCTION = """# Command line

<!-- Made from the help of the commands by `make reference`. -->

What `--help` says, with every plugin of vstorage installed. [vstorage-cli](../plugins/vstorage_cli/README.md) tells
how to work with it.
"""


def render() -> str:
    """The whole page."""
    root = vstorage.make_context("vstorage", [], resilient_parsing=True)
    return "\n".join([INTRODUCTION, *_sections(root)])


def _sections(context: click.Context) -> Iterator[str]:
    command = context.command
    yield f"## `{context.command_path}`\n\n```text\n{command.get_help(context)}\n```\n"
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _sections(child.make_context(name, [], parent=context, resilient_parsing=True))
