"""Replacing the rows of a database on a server: they are sent through the models' column types."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import Connection, Table, TableClause, bindparam, insert, literal, select, update
from sqlalchemy import table as bare_table

from vstorage_backup.columns import FileColumn, converted
from vstorage_backup.export import copy_rows
from vstorage_backup.replacement import Replacement, refusing
from vstorage_backup.sequences import raise_last_keys
from vstorage_backup.trail import without_null
from vstorage_core import TransactionConflict, report_progress
from vstorage_core.audit import AUDIT_TABLE

_TRIES = 5


def replace_on_server(replacement: Replacement) -> None:
    """Replace the rows in one transaction that other writers wait for."""
    for left in reversed(range(_TRIES)):
        try:
            _replace(replacement)
        except TransactionConflict:
            if not left:
                raise
        else:
            return


def _replace(replacement: Replacement) -> None:
    tables, safety = replacement.tables, replacement.safety
    with replacement.storage.write_connection() as connection:
        everything = [*tables, AUDIT_TABLE]
        raise_last_keys(connection, everything, replacement.upload.last_keys(everything))
        connection.commit()
        # MariaDB locks the gaps between rows, into which others would insert, only from this level on.
        connection.execution_options(isolation_level="REPEATABLE READ")
        with connection.begin():
            _lock(connection, tables)
            safety.take(lambda path, guard: copy_rows(connection, everything, path, guard), connection.dialect)
            replacement.survey(connection)
            for table in reversed(tables):
                connection.execute(table.delete())
            for table in tables:
                _copy(connection, replacement, table)
            for table in tables:
                _set_later_references(connection, replacement, table)
            _append_audit_rows(connection, replacement)
            replacement.finish(connection)


def _lock(connection: Connection, tables: Sequence[Table]) -> None:
    """Let other writers wait until we are done, and not readers."""
    if connection.dialect.name == "postgresql":
        names = ", ".join(connection.dialect.identifier_preparer.format_table(table) for table in tables)
        connection.exec_driver_sql(f"LOCK TABLE {names} IN EXCLUSIVE MODE")
        return
    for table in tables:
        every_row = select(literal(1)).select_from(table).with_for_update().execution_options(yield_per=1000)
        for _ in connection.execute(every_row).partitions():
            pass


def _copy(connection: Connection, replacement: Replacement, table: Table) -> None:
    columns = replacement.inspection.columns.get(table.name)
    if columns is None:
        return
    fills = replacement.inspection.fills[table.name]
    same_for_all = {column.name: column.loaded(value) for column, value in fills}
    same_for_all |= dict.fromkeys(_later_references(replacement, table))
    into = insert(_target(table, [*columns, *(column for column, _ in fills)]))
    total, done = replacement.upload.count(table.name), 0
    for rows in _loaded(replacement, table, columns):
        with refusing(table):
            connection.execute(into, [{**row, **same_for_all} for row in rows])
        done += len(rows)
        report_progress(table.name, done, total)


def _set_later_references(connection: Connection, replacement: Replacement, table: Table) -> None:
    """Fill in what could not be stored before the rows that it refers to."""
    later = _later_references(replacement, table)
    if not later:
        return
    keys = [column.name for column in table.primary_key.columns]
    columns = [column for column in replacement.inspection.columns[table.name] if column.name in {*later, *keys}]
    target = _target(table, columns)
    # Parameters must not be called like the columns that are set.
    statement = (
        update(target)
        .where(*(target.c[name] == bindparam(f"key_{name}") for name in keys))
        .values({name: bindparam(f"new_{name}") for name in later})
    )
    for rows in _loaded(replacement, table, columns):
        changes = [
            {f"key_{name}" if name in keys else f"new_{name}": value for name, value in row.items()}
            for row in rows
            if any(row[name] is not None for name in later)
        ]
        if changes:
            with refusing(table):
                connection.execute(statement, changes)


def _later_references(replacement: Replacement, table: Table) -> set[str]:
    """Columns that refer to the table itself or to one that is filled after it, and may be empty till then."""
    if not len(table.primary_key):
        return set()
    columns = replacement.inspection.columns.get(table.name, [])
    stored = {column.name for column in columns if column.column.nullable}
    not_yet = replacement.tables[replacement.tables.index(table) :]
    return {
        element.parent.name
        for constraint in table.foreign_key_constraints
        if constraint.referred_table in not_yet
        for element in constraint.elements
    } & stored


def _append_audit_rows(connection: Connection, replacement: Replacement) -> None:
    is_empty = connection.execute(select(AUDIT_TABLE.c.id).limit(1)).first() is None
    columns = [column for column in replacement.audit_columns if is_empty or column.name != "id"]
    into = insert(_target(AUDIT_TABLE, columns))
    for first, last in replacement.audit_ranges:
        for rows in _loaded(replacement, AUDIT_TABLE, columns, "WHERE id BETWEEN ? AND ?", first, last):
            for row in rows:
                for name in ("before", "after"):
                    row[name] = without_null(row[name])
            with refusing(AUDIT_TABLE):
                connection.execute(into, rows)


def _loaded(
    replacement: Replacement, table: Table, columns: Sequence[FileColumn], where: str = "", *values: Any
) -> Iterator[list[dict[str, Any]]]:
    names = [column.name for column in columns]
    for rows in replacement.upload.rows(table, columns, where, *values):
        loaded = converted(rows, [column.load for column in columns])
        yield [dict(zip(names, row, strict=True)) for row in loaded]


def _target(table: Table, columns: Sequence[FileColumn]) -> TableClause:
    return bare_table(table.name, *(column.server_column() for column in columns))
