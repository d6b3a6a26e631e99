"""`vstorage check`: is the database well, and as the models expect it?"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import click
from sqlalchemy import Connection, inspect
from sqlmodel import SQLModel

from vstorage_cli.context import CommandContext, database_options
from vstorage_cli.text import cell
from vstorage_core import Storage, StorageUnavailable

# Whether all is well, and what is.
Finding = tuple[bool, str]


@click.command()
@database_options
@click.pass_obj
def check(context: CommandContext, url: str | None, app: str | None) -> None:
    """Ask whether the database is well.

    Asks the database and the plugins, looks through an SQLite file for damage, and compares the tables with the models
    of --app. Exits with 1 when something is wrong. Changes no data.
    """
    problems = 0
    with context.open_storage(url, app) as storage:
        click.echo(storage.url)
        for well, finding in chain(_health(storage), _file(storage), _tables(storage) if app else ()):
            click.echo(finding if well else f"problem: {finding}")
            problems += not well
    if app is None:
        click.echo("The tables were not compared with models; name them with --app.")
    if problems:
        click.get_current_context().exit(1)
    click.echo("No problems found.")


def _health(storage: Storage) -> Iterator[Finding]:
    for name, answer in storage.health().checks.items():
        details = ", ".join(f"{key}: {cell(value)}" for key, value in answer.items() if key not in ("ok", "error"))
        if answer["ok"]:
            yield True, f"{name}: ok ({details})" if details else f"{name}: ok"
        else:
            yield False, f"{name}: {answer['error']}"


def _file(storage: Storage) -> Iterator[Finding]:
    with storage.snapshot() as connection:
        # Servers look after their files themselves.
        if connection.dialect.name != "sqlite":
            return
        try:
            yield from _pages(connection)
            yield from _foreign_keys(connection)
        except StorageUnavailable as error:
            yield False, f"file: {error}"


def _pages(connection: Connection) -> Iterator[Finding]:
    for (line,) in connection.exec_driver_sql("PRAGMA quick_check(20)"):
        yield line == "ok", f"file: {cell(line)}"


def _foreign_keys(connection: Connection) -> Iterator[Finding]:
    dangling: dict[tuple[str, str], int] = {}
    for table, _row, parent, _key in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        dangling[table, parent] = dangling.get((table, parent), 0) + 1
    for (table, parent), count in dangling.items():
        yield False, f"foreign keys: {count} rows of {table} point to rows of {parent} that do not exist"
    if not dangling:
        yield True, "foreign keys: ok"


def _tables(storage: Storage) -> Iterator[Finding]:
    metadatas = dict.fromkeys([SQLModel.metadata, *(accessor.model.metadata for accessor in storage.accessors)])
    complete = True
    with storage.snapshot() as connection:
        inspector = inspect(connection)
        existing = set(inspector.get_table_names())
        for table in (table for metadata in metadatas for table in metadata.sorted_tables):
            columns = {column["name"] for column in inspector.get_columns(table.name)} if table.name in existing else {}
            absent = [column.name for column in table.columns if column.name not in columns]
            if absent:
                complete = False
                lack = f"lacks {', '.join(absent)}" if columns else "is missing"
                yield False, f"tables: {table.name} {lack}"
    if complete:
        yield True, "tables: as the models expect them"
