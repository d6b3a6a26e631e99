"""`vstorage copy`: a backup of one database and its restore into another, whatever engines they are on."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from sqlalchemy import func, make_url, select
from sqlmodel import SQLModel

from vstorage_cli.context import CommandContext, app_option, database_file
from vstorage_cli.progress import ProgressBar
from vstorage_cli.transfer import acting, print_report, quiet_option, report_options
from vstorage_core import Storage


@click.command()
@click.option("--from", "source", metavar="URL", required=True, help="The database to copy; it stays as it is.")
@click.option("--to", "target", metavar="URL", required=True, help="The database to fill.")
@click.option("--replace", is_flag=True, help="Replace the records that --to has; its audit trail stays.")
@click.option(
    "--allow", multiple=True, metavar="NAME", help="Accept this difference of tables, as `import restore` does."
)
@app_option
@report_options
@quiet_option
@click.pass_obj
def copy(
    context: CommandContext,
    source: str,
    target: str,
    replace: bool,
    allow: tuple[str, ...],
    app: str | None,
    actor: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Copy all records, the audit trail and the last keys from one database to another.

    Between SQLite, PostgreSQL and MariaDB as you like: it is `export backup` and `import restore` in one go. With --app
    missing tables are created in --to first.
    """
    if "backup" not in context.catalogue.exporters or "restore" not in context.catalogue.importers:
        raise click.ClickException("copy needs the backup plugin: pip install 'vstorage-core[backup]'")
    if _identity(source) == _identity(target):
        raise click.UsageError("--from and --to are the same database.")
    # Before the work begins: whether it can end.
    with _opened(context, source, app) as storage:
        if not _tables(storage):
            raise click.ClickException(f"{storage.url} has no tables to copy.")
    with _opened(context, target, app, create=app is not None) as storage:
        _refuse_target(storage, replace=replace)
    with tempfile.TemporaryFile() as file, ProgressBar(quiet=quiet) as bar:
        with _opened(context, source, app) as storage:
            storage.export("backup", file, progress=bar)
        with _opened(context, target, app) as storage, acting(actor):
            report = storage.import_("restore", file, progress=bar, allow=list(allow))
    print_report(report, as_json=as_json, quiet=quiet)


@contextmanager
def _opened(context: CommandContext, url: str, app: str | None, *, create: bool = False) -> Iterator[Storage]:
    known = set(SQLModel.metadata.tables)
    try:
        with context.open_storage(url, app, create=create) as storage:
            yield storage
    finally:
        if app is None:
            # Tables as one database has them must not be taken for the other's.
            for name in set(SQLModel.metadata.tables) - known:
                SQLModel.metadata.remove(SQLModel.metadata.tables[name])


def _tables(storage: Storage) -> list[Any]:
    return [table for table in storage.tables() if table.name != "auditlog"]


def _refuse_target(storage: Storage, *, replace: bool) -> None:
    if not _tables(storage):
        raise click.ClickException(f"{storage.url} has no tables yet. Name your models with --app to create them.")
    if replace:
        return
    with storage.snapshot() as connection:
        for table in storage.tables():
            count = connection.scalar(select(func.count()).select_from(table))
            if count:
                raise click.ClickException(
                    f"{storage.url} has data: {count:,} rows in {table.name}. Replace it with --replace."
                )


def _identity(url: str) -> tuple[Any, ...]:
    """Equal for two spellings of one database, as far as they can be told without asking it."""
    storage = Storage(url, entry_points=[])
    file: Path | None = database_file(storage)
    if file is not None:
        return (file.resolve(),)
    parsed = make_url(storage.url)
    host = (parsed.host or "localhost").lower()
    if host in ("localhost", "::1"):
        host = "127.0.0.1"
    ports = {"postgresql": 5432, "mysql": 3306}
    engine = parsed.get_backend_name()
    return (engine, host, parsed.port or ports.get(engine), parsed.database, parsed.query.get("host"))
