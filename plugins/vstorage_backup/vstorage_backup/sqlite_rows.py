"""Replacing the rows of an SQLite database: the file is attached and SQLite itself copies."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

from sqlalchemy import Connection, Table, select

from vstorage_backup.export import copy_memory, copy_pages, quoted
from vstorage_backup.live import is_lost
from vstorage_backup.ranges import IN_RANGE
from vstorage_backup.replacement import Replacement, refusing
from vstorage_backup.sequences import raise_last_keys
from vstorage_core import ImportRefused, StorageUnavailable, report_progress
from vstorage_core.audit import AUDIT_TABLE


def replace_on_sqlite(replacement: Replacement, database: Path | None) -> None:
    """Replace the rows in one transaction that holds the write lock from its start.

    Args:
        replacement: What to do; of a file the survey and the safety copy are made.
        database: The file, or None for a database in memory.
    """
    storage, safety = replacement.storage, replacement.safety
    with storage.write_connection() as connection, _attached(connection, replacement, database):
        if database is None:
            # While the turn to write is ours nobody changes it, and no copy can be made inside a transaction.
            safety.take(partial(copy_memory, connection), connection.dialect)
        with connection.begin():
            if database is None:
                replacement.survey(connection)
            elif replacement.survey_again(connection):
                safety.take(partial(copy_pages, database), connection.dialect)
            for table in reversed(replacement.tables):
                _delete(connection, replacement, table)
            for done, table in enumerate(replacement.tables):
                report_progress("restoring tables", done, len(replacement.tables))
                _copy(connection, replacement, table)
            _append_audit_rows(connection, replacement)
            raise_last_keys(connection, replacement.tables, replacement.upload.last_keys(replacement.tables))
            _check_left_alone(connection, replacement)
            replacement.finish(connection)


@contextmanager
def _attached(connection: Connection, replacement: Replacement, database: Path | None) -> Iterator[None]:
    """The file as schema `upload`, and no foreign keys: they are checked already, and must not cascade now."""
    driver = cast(sqlite3.Connection, connection.connection.dbapi_connection)
    try:
        driver.execute("ATTACH DATABASE ? AS upload", (replacement.upload.uri,))
    except sqlite3.Error as error:
        raise StorageUnavailable(f"the backup cannot be attached to the database: {error}") from error
    try:
        driver.execute("PRAGMA foreign_keys = OFF")
        yield
    finally:
        try:
            driver.execute("PRAGMA foreign_keys = ON")
            driver.execute("DETACH DATABASE upload")
        except sqlite3.Error:
            if database is None:
                raise  # the connection is the database
            # The next one that the pool opens has nothing attached.
            connection.invalidate()


def _delete(connection: Connection, replacement: Replacement, table: Table) -> None:
    part = replacement.part_of(table)
    name = quoted(table.name)
    if part is None:
        connection.exec_driver_sql(f"DELETE FROM main.{name}")  # noqa: S608
        return
    if part.has_lost:
        connection.exec_driver_sql(f"DELETE FROM main.{name} WHERE {is_lost(table)}")  # noqa: S608
    if part.new:
        keys = ", ".join(quoted(key.name) for key in table.primary_key.columns)
        changed = f"SELECT {keys} FROM upload.{name} NOT INDEXED {IN_RANGE}"  # noqa: S608
        connection.exec_driver_sql(f"DELETE FROM main.{name} WHERE ({keys}) IN ({changed})", cast(Any, part.new))  # noqa: S608


def _copy(connection: Connection, replacement: Replacement, table: Table) -> None:
    columns = replacement.inspection.columns.get(table.name)
    part = replacement.part_of(table)
    if columns is None or (part is not None and not part.new):
        return
    fills = replacement.inspection.fills[table.name]
    names = ", ".join(quoted(column.name) for column in [*columns, *(column for column, _ in fills)])
    values = ", ".join([*(quoted(column.name) for column in columns), *"?" * len(fills)])
    sql = (
        f"INSERT INTO main.{quoted(table.name)} ({names})"  # noqa: S608
        f" SELECT {values} FROM upload.{quoted(table.name)} NOT INDEXED"
    )
    with refusing(table):
        if part is None:
            connection.exec_driver_sql(sql, tuple(value for _, value in fills))
        else:
            connection.exec_driver_sql(f"{sql} {IN_RANGE}", cast(Any, part.new))


def _append_audit_rows(connection: Connection, replacement: Replacement) -> None:
    if not replacement.audit_ranges:
        return
    is_empty = connection.execute(select(AUDIT_TABLE.c.id).limit(1)).first() is None
    names = [column.name for column in replacement.audit_columns if is_empty or column.name != "id"]
    # The original writes JSON's null where it means that there is none.
    values = [f"nullif({quoted(name)}, 'null')" if name in ("before", "after") else quoted(name) for name in names]
    with refusing(AUDIT_TABLE):
        connection.exec_driver_sql(
            f"INSERT INTO main.{quoted(AUDIT_TABLE.name)} ({', '.join(map(quoted, names))})"  # noqa: S608
            f" SELECT {', '.join(values)} FROM upload.{quoted(AUDIT_TABLE.name)} WHERE id BETWEEN ? AND ? ORDER BY id",
            cast(Any, replacement.audit_ranges),
        )


def _check_left_alone(connection: Connection, replacement: Replacement) -> None:
    """Tables that no model describes may refer to ours; what they refer to must still be there."""
    ours = {table.name for table in replacement.tables}
    for name in replacement.left_alone:
        violations = connection.exec_driver_sql(f"PRAGMA main.foreign_key_check({quoted(name)})").all()
        if any(parent in ours for _, _, parent, _ in violations):
            raise ImportRefused(
                f"table {name}, which no model describes, refers to records that the backup does not have; remove these"
                " references first"
            )
