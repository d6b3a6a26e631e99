"""The last key that each table has given, so that a restored one goes on from there and never gives one again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sqlalchemy import Connection, Table, func, inspect, select, text


def last_keys(connection: Connection, tables: Sequence[Table]) -> dict[str, int]:
    """The last key by table, of those tables that make their keys themselves and have made one."""
    dialect = connection.dialect.name
    if dialect == "sqlite":
        if not inspect(connection).has_table("sqlite_sequence"):
            return {}
        rows = connection.exec_driver_sql("SELECT name, seq FROM sqlite_sequence")
        return {str(name): int(key) for name, key in rows}
    read = _postgresql_last_key if dialect == "postgresql" else _mysql_last_key
    keys = {table.name: read(connection, table) for table in tables if table.autoincrement_column is not None}
    return {name: key for name, key in keys.items() if key}


def raise_last_keys(connection: Connection, tables: Sequence[Table], keys: Mapping[str, int]) -> None:
    """Let each table go on after its key in `keys`, unless it is past it already.

    On a server it works outside of transactions: MariaDB ends the open one.
    """
    if connection.dialect.name == "sqlite" and not inspect(connection).has_table("sqlite_sequence"):
        return  # a database of the original; SQLite goes by the rows alone
    present = last_keys(connection, tables)
    for table in tables:
        key = keys.get(table.name, 0)
        if table.autoincrement_column is None or key <= present.get(table.name, 0):
            continue
        if connection.dialect.name == "sqlite":
            connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": table.name})
            connection.execute(
                text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :key)"), {"name": table.name, "key": key}
            )
        elif connection.dialect.name == "postgresql":
            connection.execute(select(func.setval(_postgresql_sequence(connection, table), key)))
        else:
            # Its own time-out is a day.
            connection.exec_driver_sql("SET SESSION lock_wait_timeout = @@SESSION.innodb_lock_wait_timeout")
            quoted = connection.dialect.identifier_preparer.format_table(table)
            connection.exec_driver_sql(f"ALTER TABLE {quoted} AUTO_INCREMENT = {key + 1:d}")


def _postgresql_sequence(connection: Connection, table: Table) -> str | None:
    assert table.autoincrement_column is not None  # noqa: S101 (the caller has looked)
    quoted = connection.dialect.identifier_preparer.format_table(table)
    name: str | None = connection.scalar(select(func.pg_get_serial_sequence(quoted, table.autoincrement_column.name)))
    return name


def _postgresql_last_key(connection: Connection, table: Table) -> int:
    sequence = _postgresql_sequence(connection, table)
    if sequence is None:
        return 0
    last, is_called = connection.exec_driver_sql(f"SELECT last_value, is_called FROM {sequence}").one()  # noqa: S608
    return int(last) if is_called else 0


def _mysql_last_key(connection: Connection, table: Table) -> int:
    if not getattr(connection.dialect, "is_mariadb", True):
        # MySQL answers from a cache of a day.
        connection.exec_driver_sql("SET SESSION information_schema_stats_expiry = 0")
    following = connection.scalar(
        text(
            "SELECT auto_increment FROM information_schema.tables"
            " WHERE table_schema = DATABASE() AND table_name = :name"
        ),
        {"name": table.name},
    )
    return int(following or 1) - 1
