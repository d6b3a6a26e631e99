"""PostgreSQL, MariaDB and MySQL: writers side by side, wide numbers, time-outs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import BigInteger, Connection, Engine, Integer, SmallInteger, Table, event, func, select, text
from sqlalchemy.dialects.mysql.base import MySQLTypeCompiler
from sqlalchemy.dialects.postgresql.base import PGTypeCompiler
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from vstorage_core.engine.backend import Backend, EngineSettings, create_engine, pool_options
from vstorage_core.engine.replicas import Replicas
from vstorage_core.errors import ConfigurationError


class PostgresqlBackend(Backend):
    """PostgreSQL through psycopg 3."""

    def __init__(self, url: URL, settings: EngineSettings) -> None:
        self.has_replicas = bool(settings.replica_urls)
        super().__init__(url, settings)
        engines = [self._open_engine(_replica_url(url), read_only=True) for url in settings.replica_urls]
        self._replicas = Replicas(self.write_engine, engines, settings.replica_lag_limit_seconds)

    def _open_engine(self, url: URL, *, read_only: bool = False) -> Engine:
        settings = self.settings
        connect_seconds = max(2, int(settings.connect_timeout_seconds))
        options = {
            "lock_timeout": int(settings.timeout_seconds * 1000),
            "statement_timeout": int((settings.statement_timeout_seconds or 0) * 1000),
            **({"default_transaction_read_only": "on"} if read_only else {}),
        }
        given = url.query.get("options", "")
        arguments: dict[str, Any] = {
            "connect_timeout": connect_seconds,
            # A server that lost its power says nothing: without these we would wait for it for minutes.
            "tcp_user_timeout": connect_seconds * 1000,
            "keepalives_idle": connect_seconds,
            "options": " ".join([*(f"-c {name}={value}" for name, value in options.items()), str(given)]),
        }
        if len(_hosts(url)) > 1 and "target_session_attrs" not in url.query:
            # Of a primary and its standbys only the primary is of use.
            arguments["target_session_attrs"] = "read-write"
        # A standby may cancel transactions that stay open, and there is nothing to commit on it.
        more = {"isolation_level": "AUTOCOMMIT"} if read_only else {}
        engine = create_engine(url, connect_args=arguments, **more, **pool_options(settings))
        engine.dialect.type_compiler = engine.dialect.type_compiler_instance = _PostgresqlTypes(engine.dialect)
        engine.dialect.colspecs = {**engine.dialect.colspecs, Integer: _PostgresqlInteger, SmallInteger: SmallInteger}
        return engine

    @property
    def engines(self) -> set[Engine]:
        return {*super().engines, *self._replicas.engines}

    def reader(self) -> Engine:
        return self._replicas.choose() if self.has_replicas else self.read_engine

    def reader_failed(self, engine: Engine) -> None:
        self._replicas.failed(engine)

    def release_write(self) -> None:
        self._replicas.wrote()

    def state(self) -> Mapping[str, Any]:
        return {"replicas": self._replicas.report()} if self.has_replicas else {}

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
        settings = self.settings
        places = [_place(host) for host in _hosts(url)] or [{}]
        arguments: dict[str, Any] = {"connect_timeout": settings.connect_timeout_seconds, "charset": "utf8mb4"}
        if settings.statement_timeout_seconds is not None:
            # The server's own limit comes first, where there is a server left.
            arguments["read_timeout"] = settings.statement_timeout_seconds + settings.connect_timeout_seconds
        engine = create_engine(
            url.difference_update_query(["host"]),
            isolation_level="READ COMMITTED",
            connect_args=arguments,
            **pool_options(settings),
        )
        engine.dialect.type_compiler = engine.dialect.type_compiler_instance = _MysqlTypes(engine.dialect)

        @event.listens_for(engine, "do_connect")
        def connect(dialect: Any, _record: object, arguments: Sequence[Any], options: dict[str, Any]) -> Any:
            for place in places[:-1]:
                try:
                    return _connected(dialect, arguments, {**options, **place}, settings, len(places))
                except dialect.loaded_dbapi.OperationalError:
                    continue
            return _connected(dialect, arguments, {**options, **places[-1]}, settings, len(places))

        return engine

    def lock(self, connection: Connection, name: str) -> None:
        # MariaDB's named locks outlive the transaction; a row of a table of locks does not.
        if name not in self._known_locks:
            # On a connection of its own: CREATE TABLE would commit the transaction, and INSERT IGNORE of a row that is
            # there takes a shared lock, over which those who want the exclusive one deadlock.
            with self.write_engine.connect().execution_options(isolation_level="AUTOCOMMIT") as other:
                other.execute(
                    text(
                        "CREATE TABLE IF NOT EXISTS vstorage_lock"
                        " (name VARCHAR(255) PRIMARY KEY, taken BIGINT NOT NULL)"
                    )
                )
                other.execute(text("INSERT IGNORE INTO vstorage_lock VALUES (:name, 0)"), {"name": name})
            self._known_locks.add(name)
        # A write, not FOR UPDATE: the nodes of a cluster tell each other what was written, and not what was locked.
        connection.execute(text("UPDATE vstorage_lock SET taken = taken + 1 WHERE name = :name"), {"name": name})


def _replica_url(text: str) -> URL:
    try:
        url = make_url(text)
    except ArgumentError:
        raise ConfigurationError(
            "a URL of replica_urls is no database URL; write e.g. postgresql://user@host/name"
        ) from None
    if url.get_backend_name() not in ("postgresql", "postgres"):
        raise ConfigurationError(f"the replica {url.render_as_string()} of a PostgreSQL database is none itself")
    return url.set(drivername="postgresql+psycopg")


def _hosts(url: URL) -> list[str]:
    """The hosts of `?host=a:3306&host=b:3306`; PostgreSQL's driver tries them one after the other by itself."""
    named = url.query.get("host", ())
    return named.split(",") if isinstance(named, str) else list(named)


def _place(host: str) -> dict[str, Any]:
    name, _, port = host.partition(":")
    return {"host": name, "port": int(port or 3306)}


def _connected(
    dialect: Any, arguments: Sequence[Any], options: Mapping[str, Any], settings: EngineSettings, host_count: int
) -> Any:
    connection = dialect.connect(*arguments, **options)
    is_mariadb = "MariaDB" in connection.get_server_info()
    values = {"innodb_lock_wait_timeout": max(1, int(settings.timeout_seconds)), "time_zone": "'+00:00'"}
    if settings.statement_timeout_seconds is not None:
        if is_mariadb:
            values["max_statement_time"] = settings.statement_timeout_seconds
        else:
            values["max_execution_time"] = int(settings.statement_timeout_seconds * 1000)
    if is_mariadb and host_count > 1:
        # In a cluster a read waits for what other nodes have committed, our own writes through them included.
        values["wsrep_sync_wait"] = 1
    try:
        with connection.cursor() as cursor:
            cursor.execute("SET SESSION " + ", ".join(f"{name} = {value}" for name, value in values.items()))
            # A node of a cluster that lost the others lets us in, and refuses everything else.
            cursor.execute("SELECT 1")
    except dialect.loaded_dbapi.Error:
        connection.close()
        raise
    return connection


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
