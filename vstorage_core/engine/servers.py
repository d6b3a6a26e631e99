"""PostgreSQL, MariaDB and MySQL: writers side by side, wide numbers, time-outs."""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Connection, Engine, Integer, SmallInteger, Table, event, func, select, text
from sqlalchemy.dialects.mysql.base import MySQLTypeCompiler
from sqlalchemy.dialects.postgresql.base import PGTypeCompiler
from sqlalchemy.engine import URL

from vstorage_core.engine.backend import Backend, EngineSettings, create_engine


class PostgresqlBackend(Backend):
    """PostgreSQL through psycopg 3."""

    def _open_engine(self, url: URL) -> Engine:
        milliseconds = int(self.settings.timeout_seconds * 1000)
        engine = create_engine(
            url,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": max(2, int(self.settings.timeout_seconds)),
                "options": f"-c lock_timeout={milliseconds}",
            },
        )
        engine.dialect.type_compiler = engine.dialect.type_compiler_instance = _PostgresqlTypes(engine.dialect)
        engine.dialect.colspecs = {**engine.dialect.colspecs, Integer: _PostgresqlInteger, SmallInteger: SmallInteger}
        return engine

    def advance_keys(self, connection: Connection, table: Table) -> None:
        column = table.autoincrement_column
        if column is None:
            return
        # A sequence does not see keys that were given.
        name = connection.dialect.identifier_preparer.format_table(table)
        sequence = connection.scalar(select(func.pg_get_serial_sequence(name, column.name)))
        highest = connection.scalar(select(func.max(column)))
        if sequence is not None and highest is not None:
            connection.execute(
                text(
                    "SELECT setval(CAST(:sequence AS regclass), :highest)"
                    " WHERE :highest > coalesce(pg_sequence_last_value(CAST(:sequence AS regclass)), 0)"
                ),
                {"sequence": sequence, "highest": highest},
            )

    def lock(self, connection: Connection, name: str) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(hashtext(:name))"), {"name": f"vstorage:{name}"})


class MysqlBackend(Backend):
    """MariaDB and MySQL through PyMySQL."""

    def __init__(self, url: URL, settings: EngineSettings) -> None:
        self._known_locks: set[str] = set()
        super().__init__(url, settings)

    def _open_engine(self, url: URL) -> Engine:
        timeout = max(1, int(self.settings.timeout_seconds))
        engine = create_engine(
            url,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",
            connect_args={"connect_timeout": timeout, "charset": "utf8mb4"},
        )
        engine.dialect.type_compiler = engine.dialect.type_compiler_instance = _MysqlTypes(engine.dialect)

        @event.listens_for(engine, "connect")
        def configure(connection: Any, _record: object) -> None:
            with connection.cursor() as cursor:
                cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {timeout}, time_zone = '+00:00'")

        return engine

    def lock(self, connection: Connection, name: str) -> None:
        # MariaDB's named locks outlive the transaction; a row of a table of locks does not.
        if name not in self._known_locks:
            # On a connection of its own: CREATE TABLE would commit the transaction, and INSERT IGNORE of a row that is
            # there takes a shared lock, over which those who want the exclusive one deadlock.
            with self.write_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
                other.execute(text("CREATE TABLE IF NOT EXISTS vstorage_lock (name VARCHAR(255) PRIMARY KEY)"))
                other.execute(text("INSERT IGNORE INTO vstorage_lock VALUES (:name)"), {"name": name})
            self._known_locks.add(name)
        connection.execute(text("SELECT name FROM vstorage_lock WHERE name = :name FOR UPDATE"), {"name": name})


class _PostgresqlInteger(BigInteger):
    """Makes keys BIGSERIAL, and lets the driver choose the width of a number: SQLAlchemy would cast it to 32 bits."""

    render_bind_cast = False


class _PostgresqlTypes(PGTypeCompiler):
    """Column types of new tables: whole numbers have 64 bits as on SQLite, so that a machine's data fits."""

    def visit_integer(self, type_: Any, **_: Any) -> str:
        return "BIGINT"


class _MysqlTypes(MySQLTypeCompiler):
    """Column types of new tables: 64 bits for numbers, and the microseconds that MySQL drops unless asked."""

    def visit_integer(self, type_: Any, **_: Any) -> str:
        return "BIGINT"

    def visit_datetime(self, type_: Any, **_: Any) -> str:
        return "DATETIME(6)"

    def visit_time(self, type_: Any, **_: Any) -> str:
        return "TIME(6)"

    def visit_float(self, type_: Any, **_: Any) -> str:
        return "DOUBLE"
