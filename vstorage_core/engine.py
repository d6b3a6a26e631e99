"""How a database is opened and locked, per dialect. No other module asks which dialect it is on."""

from __future__ import annotations

import asyncio
import collections
import functools
import logging
import os
import re
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NamedTuple

import sqlalchemy
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import (
    BigInteger,
    Connection,
    Dialect,
    Engine,
    Float,
    Integer,
    Numeric,
    SmallInteger,
    StaticPool,
    Table,
    event,
    func,
    select,
    text,
)
from sqlalchemy.dialects.mysql.base import MySQLTypeCompiler
from sqlalchemy.dialects.postgresql.base import PGTypeCompiler
from sqlalchemy.engine import URL, ExceptionContext, make_url
from sqlalchemy.exc import ArgumentError

from vstorage_core.errors import (
    ConfigurationError,
    ConstraintKind,
    ConstraintViolation,
    InvalidInput,
    StorageBusy,
    StorageError,
    StorageUnavailable,
    TransactionError,
)

logger = logging.getLogger("vstorage")

_CHECKPOINT_TIMEOUT_MILLISECONDS = 500
_NETWORK_FILE_SYSTEMS = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "afs",
    "ceph",
    "glusterfs",
    "lustre",
    "fuse.sshfs",
    "fuse.glusterfs",
)


class EngineSettings(BaseModel):
    """The `engine` section of a storage's configuration.

    Attributes:
        durability: What a power cut can cost on SQLite. `full`: nothing that was acknowledged. `normal`: the last
            moments, never the database; many times fewer flash writes. `off`: the database itself.
        timeout_seconds: How long a writer waits for others before `StorageBusy`.
        journal_size_limit_bytes: Size at which SQLite's write-ahead log is written back and cut, readers or not.
    """

    model_config = ConfigDict(extra="forbid")

    durability: Literal["full", "normal", "off"] = "full"
    timeout_seconds: float = Field(default=10.0, gt=0)
    journal_size_limit_bytes: int = Field(default=64 * 1024 * 1024, gt=0)


class Backend:
    """The engines of one database and the way its writers take turns.

    Attributes:
        write_engine: Every transaction on it may write; on SQLite it holds the write lock from its first statement.
        read_engine: Refuses writes on SQLite; the write engine elsewhere.
        single_connection: Whether the database lives in one connection, as SQLite in memory does.
        writes_rows: Whether rows may be written and read through the driver's own cursor.
    """

    single_connection = False
    writes_rows = False

    def __init__(self, url: URL, settings: EngineSettings) -> None:
        self.url = url
        self.settings = settings
        self.write_engine = self._open_engine(url)
        self.read_engine = self.write_engine

    def _open_engine(self, url: URL) -> Engine:
        options = {"connect_args": {"connect_timeout": int(self.settings.timeout_seconds)}}
        return _create_engine(url, pool_pre_ping=True, **options)

    def acquire_write(self, timeout_seconds: float | None = None) -> None:
        """Wait for the turn to write; servers let writers run side by side."""

    def release_write(self) -> None:
        """Let the next writer go."""

    def lock(self, connection: Connection, name: str) -> None:
        """Make transactions that lock the same `name` run one after the other, until this one ends."""
        raise NotImplementedError

    def begin_snapshot(self, connection: Connection) -> Connection:
        """All reads on the connection, up to its close, see one moment of the database."""
        return connection.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def row_transaction(self) -> Iterator[Any]:
        """The driver's cursor in a write transaction of its own."""
        raise NotImplementedError
        yield

    @contextmanager
    def row_savepoint(self, connection: Connection) -> Iterator[Any]:
        """The driver's cursor in a savepoint of the transaction that the connection is in."""
        raise NotImplementedError
        yield

    @contextmanager
    def row_reader(self) -> Iterator[Any]:
        """The driver's cursor for a single read."""
        raise NotImplementedError
        yield

    def advance_keys(self, connection: Connection, table: Table) -> None:
        """Let generated keys go on after the highest one in the table; most databases do so by themselves."""

    def close(self) -> None:
        """Close all connections that are not in use."""
        self.write_engine.dispose()
        if self.read_engine is not self.write_engine:
            self.read_engine.dispose()


class _Sqlite(Backend):
    writes_rows = True
    _log_path: Path | None = None

    def __init__(self, url: URL, settings: EngineSettings) -> None:
        database = url.database or ":memory:"
        self.single_connection = database == ":memory:" or "mode=memory" in database
        if not self.single_connection and not database.startswith("file:"):
            # Absolute, so that a later chdir does not open another file.
            path = Path(database).absolute()
            if not path.parent.is_dir():
                raise ConfigurationError(f"cannot open the database {path}: there is no folder {path.parent}")
            url = url.set(database=str(path))
            _warn_about_library()
            _warn_about_file_system(path)
            self._log_path = Path(f"{path}-wal")
        self.gate = WriteGate()
        self._checkpoint_at_bytes = settings.journal_size_limit_bytes
        super().__init__(url, settings)
        if not self.single_connection:
            self.read_engine = self._open_engine(url, read_only=True)

    def _open_engine(self, url: URL, *, read_only: bool = False) -> Engine:
        pool: dict[str, Any] = {"poolclass": StaticPool} if self.single_connection else {"max_overflow": 40}
        engine = _create_engine(url, connect_args={"check_same_thread": False, "uri": True}, **pool)
        # Dialects look up how a type is stored here; SQLAlchemy's own Decimal on SQLite rounds to 10 places.
        engine.dialect.colspecs = {**engine.dialect.colspecs, Numeric: _SqliteDecimal, Float: Float}
        begin = "BEGIN" if read_only else "BEGIN IMMEDIATE"

        @event.listens_for(engine, "connect")
        def configure(connection: sqlite3.Connection, _record: object) -> None:
            # The driver's own BEGIN comes late and breaks savepoints; ours is sent by the listener below.
            connection.isolation_level = None
            self._configure(connection, read_only)

        @event.listens_for(engine, "begin")
        def begin_transaction(connection: Connection) -> None:
            connection.exec_driver_sql(begin)

        return engine

    def _configure(self, connection: sqlite3.Connection, read_only: bool) -> None:
        execute = connection.execute
        execute(f"PRAGMA busy_timeout = {int(self.settings.timeout_seconds * 1000)}")
        execute("PRAGMA foreign_keys = ON")
        execute("PRAGMA trusted_schema = OFF")
        # Without it INSERT OR REPLACE deletes rows behind the back of triggers.
        execute("PRAGMA recursive_triggers = ON")
        if not self.single_connection:
            try:
                mode = execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                mode = str(error)
            if mode != "wal":
                logger.warning(
                    "%s: write-ahead logging is not available (%s); writers will block readers",
                    self.url.database,
                    mode,
                )
            execute(f"PRAGMA journal_size_limit = {self.settings.journal_size_limit_bytes}")
            execute(f"PRAGMA synchronous = {self.settings.durability.upper()}")
        if read_only:
            execute("PRAGMA query_only = ON")

    def acquire_write(self, timeout_seconds: float | None = None) -> None:
        self.gate.acquire(self.settings.timeout_seconds if timeout_seconds is None else timeout_seconds)

    def release_write(self) -> None:
        try:
            self._bound_log()
        finally:
            self.gate.release()

    def _bound_log(self) -> None:
        """Write the log back once it is too long; SQLite itself never cuts it while readers come and go."""
        try:
            size = self._log_path.stat().st_size if self._log_path else 0
        except OSError:
            return
        if size < self._checkpoint_at_bytes:
            return
        with self.write_engine.connect() as connection:
            execute = connection.connection.cursor().execute
            execute(f"PRAGMA busy_timeout = {_CHECKPOINT_TIMEOUT_MILLISECONDS}")
            blocked, _, _ = execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            execute(f"PRAGMA busy_timeout = {int(self.settings.timeout_seconds * 1000)}")
        limit = self.settings.journal_size_limit_bytes
        # Behind a long reader every further try would cost its time-out: wait until it is worth it again.
        self._checkpoint_at_bytes = size + limit // 4 if blocked else limit

    def lock(self, connection: Connection, name: str) -> None:
        """A write transaction on SQLite excludes all others already."""

    @contextmanager
    def row_transaction(self) -> Iterator[sqlite3.Cursor]:
        self.acquire_write()
        try:
            with closing(self.write_engine.raw_connection()) as connection, _translated():
                cursor: Any = connection.cursor()
                cursor.execute("BEGIN IMMEDIATE")
                try:
                    yield cursor
                    cursor.execute("COMMIT")
                except BaseException:
                    # A full disk has rolled back already.
                    if cursor.connection.in_transaction:
                        cursor.execute("ROLLBACK")
                    raise
        finally:
            self.release_write()

    @contextmanager
    def row_savepoint(self, connection: Connection) -> Iterator[sqlite3.Cursor]:
        with _translated():
            cursor: Any = connection.connection.cursor()
            cursor.execute("SAVEPOINT vstorage_rows")
            try:
                yield cursor
                cursor.execute("RELEASE vstorage_rows")
            except BaseException:
                if cursor.connection.in_transaction:
                    cursor.execute("ROLLBACK TO vstorage_rows")
                    cursor.execute("RELEASE vstorage_rows")
                raise

    @contextmanager
    def row_reader(self) -> Iterator[sqlite3.Cursor]:
        if self.single_connection:
            # Others must not see what is not committed yet.
            self.acquire_write()
        try:
            with closing(self.read_engine.raw_connection()) as connection, _translated():
                yield connection.cursor()  # type: ignore[misc]
        finally:
            if self.single_connection:
                self.release_write()

    def begin_snapshot(self, connection: Connection) -> Connection:
        # BEGIN alone takes no snapshot; the first read does.
        connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()
        return connection


@functools.cache
def _warn_about_library() -> None:
    # https://www.sqlite.org/wal.html#walresetbug
    if (3, 7, 0) <= sqlite3.sqlite_version_info <= (3, 51, 2):
        logger.warning(
            "SQLite %s can damage a database that two processes write to at once (WAL-reset bug, fixed in 3.51.3);"
            " let one process write, or install a newer SQLite",
            sqlite3.sqlite_version,
        )


def _warn_about_file_system(path: Path) -> None:
    try:
        mounts = Path("/proc/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return  # not Linux
    folders = {fields[1].replace("\\040", " "): fields[2] for fields in map(str.split, mounts)}
    mounted = next((folders[str(folder)] for folder in path.parents if str(folder) in folders), "")
    if mounted.startswith(_NETWORK_FILE_SYSTEMS):
        logger.warning(
            "%s is on a network file system (%s), where SQLite's locks do not work; keep it on a local disk",
            path,
            mounted,
        )


class _Postgresql(Backend):
    def _open_engine(self, url: URL) -> Engine:
        milliseconds = int(self.settings.timeout_seconds * 1000)
        engine = _create_engine(
            url,
            pool_pre_ping=True,
            connect_args={
                "connect_timeout": max(2, int(self.settings.timeout_seconds)),
                "options": f"-c lock_timeout={milliseconds}",
            },
        )
        engine.dialect.type_compiler_instance = _PostgresqlTypes(engine.dialect)
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


class _Mysql(Backend):
    def _open_engine(self, url: URL) -> Engine:
        timeout = max(1, int(self.settings.timeout_seconds))
        engine = _create_engine(
            url,
            pool_pre_ping=True,
            isolation_level="READ COMMITTED",
            connect_args={"connect_timeout": timeout, "charset": "utf8mb4"},
        )
        engine.dialect.type_compiler_instance = _MysqlTypes(engine.dialect)

        @event.listens_for(engine, "connect")
        def configure(connection: Any, _record: object) -> None:
            with connection.cursor() as cursor:
                cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {timeout}, time_zone = '+00:00'")

        return engine

    def lock(self, connection: Connection, name: str) -> None:
        # MariaDB's named locks outlive the transaction; a row of a table of locks does not.
        connection.execute(
            text("CREATE TABLE IF NOT EXISTS vstorage_lock (name VARCHAR(255) PRIMARY KEY) ENGINE=InnoDB")
        )
        connection.execute(text("INSERT IGNORE INTO vstorage_lock VALUES (:name)"), {"name": name})
        connection.execute(text("SELECT name FROM vstorage_lock WHERE name = :name FOR UPDATE"), {"name": name})


class Owner(NamedTuple):
    """Who runs: the process (a fork copies the rest), the thread, and the asyncio task where there is one."""

    process: int
    thread: int
    task: object


class WriteGate:
    """First in, first out: threads take turns to write, in the order in which they came.

    SQLite's own `busy_timeout` polls, so under load some writers starve while others run.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._queue: collections.deque[threading.Lock] = collections.deque()
        self._holder: Owner | None = None

    def acquire(self, timeout_seconds: float) -> None:
        """Wait for the turn.

        Raises:
            StorageBusy: It did not come in time.
            TransactionError: It cannot come: another task of this thread's event loop holds it.
        """
        me = current_owner()
        with self._mutex:
            if self._holder is None:
                self._holder = me
                return
            if me.task is not None and self._holder.thread == me.thread:
                raise TransactionError(
                    "another task of this event loop has a write transaction open and could never end it while this one"
                    " waits; leave the `with transaction():` block before awaiting"
                )
            turn = threading.Lock()
            turn.acquire()
            self._queue.append(turn)
        if not turn.acquire(timeout=timeout_seconds):
            with self._mutex:
                if turn in self._queue:
                    self._queue.remove(turn)
                    raise StorageBusy(f"other writers held the database for {timeout_seconds:g} s; try again")
            # The turn came between the deadline and the mutex.
        self._holder = me

    def release(self) -> None:
        """Hand the turn to whoever waits longest."""
        with self._mutex:
            if self._queue:
                # Never free in between, or a newcomer would slip in.
                self._holder = Owner(0, 0, None)
                self._queue.popleft().release()
            else:
                self._holder = None


def current_owner() -> Owner:
    """Who is running here and now."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return Owner(os.getpid(), threading.get_ident(), task)


class _SqliteDecimal(Numeric[Decimal]):
    """Decimal in SQLite's NUMERIC, which keeps whole numbers of 64 bits and 15 digits else.

    SQLAlchemy's own type rounds silently; here what does not fit is refused and the rest comes back equal.
    """

    def bind_processor(self, dialect: Dialect) -> Any:
        def bind(value: Any) -> Any:
            if value is None:
                return None
            exact = Decimal(value)
            if exact == exact.to_integral_value() and abs(exact) < 2**63:
                return int(exact)
            stored = float(exact)
            if Decimal(repr(stored)) != exact:
                raise InvalidInput(f"{exact} has more digits than the 15 that SQLite keeps of a decimal")
            return stored

        return bind

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        exponent = None if self.scale is None else Decimal(1).scaleb(-self.scale)

        def load(value: Any) -> Any:
            if value is None or not self.asdecimal:
                return value
            exact = Decimal(repr(value) if isinstance(value, float) else value)
            return exact if exponent is None else exact.quantize(exponent)

        return load


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


def _create_engine(url: URL, **options: Any) -> Engine:
    try:
        engine = sqlalchemy.create_engine(url, **options)
    except ModuleNotFoundError as error:
        extra = {"psycopg": "postgres", "pymysql": "mysql"}.get(error.name or "")
        hint = f"pip install 'vstorage-core[{extra}]'" if extra else f"pip install {error.name}"
        raise ConfigurationError(f"{url.render_as_string()} needs the driver {error.name}: {hint}") from error
    event.listen(engine, "handle_error", _raise_ours)
    return engine


def open_backend(url: str, settings: EngineSettings) -> Backend:
    """Open the database that the URL names.

    Raises:
        ConfigurationError: The URL is malformed, of an unsupported database, or its driver is not installed.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError(
            f"{url!r} is not a database URL; write e.g. sqlite:///./machine.db or postgresql://user@host/name"
        ) from None
    name = parsed.get_backend_name()
    if name == "sqlite":
        return _Sqlite(parsed, settings)
    # Without a driver in the URL SQLAlchemy picks another one from release to release.
    if name in ("postgresql", "postgres"):
        return _Postgresql(parsed.set(drivername="postgresql+psycopg"), settings)
    if name in ("mysql", "mariadb"):
        return _Mysql(parsed.set(drivername="mysql+pymysql"), settings)
    raise ConfigurationError(f"{name!r} is not supported; use sqlite, postgresql, mysql or mariadb")


def _raise_ours(context: ExceptionContext) -> None:
    """SQLAlchemy event: raise our exception in place of the driver's, without SQL or parameters in its message."""
    if context.is_pre_ping:
        return  # the pool wants to know whether it must reconnect
    ours = _translate(context.original_exception)
    if ours is None and context.is_disconnect:
        ours = StorageUnavailable("the connection to the database was lost")
    if ours is not None:
        raise ours from context.original_exception


@contextmanager
def _translated() -> Iterator[None]:
    """Raise our exceptions in place of the driver's, where no engine of SQLAlchemy's is between."""
    try:
        yield
    except (sqlite3.Error, OverflowError, UnicodeEncodeError) as error:
        raise _translate(error) or error from error


def _translate(error: BaseException) -> StorageError | None:
    if isinstance(error, StorageError):
        return error
    if isinstance(error, sqlite3.Error):
        return _translate_sqlite(error)
    if isinstance(error, OverflowError):
        return InvalidInput("a whole number is larger than the 64 bits that a database keeps")
    if isinstance(error, UnicodeEncodeError):
        return InvalidInput("a text contains characters that are not valid Unicode")
    if type(error).__module__.startswith("pymysql") and error.args and isinstance(error.args[0], int):
        return _translate_mysql(error, error.args[0], str(error.args[-1]))
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate is not None:
        return _translate_postgresql(error, sqlstate)
    if type(error).__name__ in ("OperationalError", "ConnectionTimeout"):
        return StorageUnavailable("the database cannot be reached")
    return None


_SQLITE_CONSTRAINTS: dict[str, ConstraintKind] = {
    "UNIQUE": "unique",
    "FOREIGN KEY": "foreign_key",
    "NOT NULL": "not_null",
    "CHECK": "check",
}
_SQLITE_UNAVAILABLE = {
    "database or disk is full": "the disk is full",
    "disk I/O error": "the disk reports an input/output error",
    "attempt to write a readonly database": "the database is read-only here; to write, use `with transaction():`",
    "unable to open database file": "the database file cannot be opened",
    "database disk image is malformed": "the database file is damaged; restore a backup",
    "file is not a database": "the file is not an SQLite database",
}


def _translate_sqlite(error: sqlite3.Error) -> StorageError | None:
    # By text, because Python 3.10 does not tell SQLite's result codes; the texts are part of SQLite's interface.
    message = str(error)
    constraint = re.match(r"(UNIQUE|FOREIGN KEY|NOT NULL|CHECK) constraint failed(?:: (.*))?$", message, re.DOTALL)
    if constraint:
        kind = _SQLITE_CONSTRAINTS[constraint[1]]
        fields = [] if kind == "check" else [name.split(".")[-1] for name in (constraint[2] or "").split(", ") if name]
        return _violation(kind, fields, error)
    if "is locked" in message or "database is busy" in message:
        return StorageBusy("another process holds the database; try again")
    if message.startswith("no such table"):
        return ConfigurationError(
            f"{message}; create it with bootstrap(…, create_tables=True) or storage.create_tables()"
        )
    for text_, meaning in _SQLITE_UNAVAILABLE.items():
        if message.startswith(text_):
            return StorageUnavailable(meaning)
    return None


def _translate_postgresql(error: BaseException, sqlstate: str) -> StorageError | None:
    diagnostics = getattr(error, "diag", None)
    # "Key (email)=(a@b) already exists.": the value must not leave the server, the column may.
    key = re.match(r"Key \(([^)]*)\)", getattr(diagnostics, "message_detail", None) or "")
    fields = [name.strip(' "') for name in key[1].split(",")] if key else []
    if sqlstate == "23505":
        return _violation("unique", fields, error)
    if sqlstate == "23503":
        return _violation("foreign_key", fields, error)
    if sqlstate == "23502":
        return _violation("not_null", [getattr(diagnostics, "column_name", None) or "?"], error)
    if sqlstate == "23514":
        return _violation("check", [], error)
    if sqlstate == "42P01":
        return ConfigurationError("a table does not exist; create it with bootstrap() or storage.create_tables()")
    if sqlstate in ("55P03", "40001", "40P01"):
        return StorageBusy("other transactions stood in the way; try again")
    if sqlstate.startswith("22"):
        return InvalidInput("the database refuses a value: it does not fit its column")
    if sqlstate[:2] in ("08", "53", "57", "58"):
        return StorageUnavailable("the database server cannot do this now")
    return None


_MYSQL_CONSTRAINTS: dict[int, ConstraintKind] = {
    1062: "unique", 1451: "foreign_key", 1452: "foreign_key", 1048: "not_null", 3819: "check", 4025: "check"
}  # fmt: skip


def _translate_mysql(error: BaseException, number: int, message: str) -> StorageError | None:
    if number in _MYSQL_CONSTRAINTS:
        kind = _MYSQL_CONSTRAINTS[number]
        named = re.search(r"for key '([^']*)'|Column '([^']*)'|FOREIGN KEY \(`([^`]*)`\)", message)
        fields = [name.split(".")[-1] for name in named.groups() if name] if named else []
        return _violation(kind, fields, error)
    if number in (1205, 1213):
        return StorageBusy("other transactions stood in the way; try again")
    if number in (1264, 1366, 1406):
        return InvalidInput("the database refuses a value: it does not fit its column")
    if number in (1021, 1040, 1047, 1114, 1290, 2002, 2003, 2006, 2013):
        return StorageUnavailable("the database server cannot do this now")
    return None


def _violation(kind: ConstraintKind, fields: list[str], error: BaseException) -> ConstraintViolation:
    named = ", ".join(fields)
    message = {
        "unique": f"{named or 'a value'} is taken by another record",
        "foreign_key": f"{named or 'a reference'} points to a record that does not exist, or a record is still in use",
        "not_null": f"{named or 'a value'} is required",
        "check": "a rule of the table refuses the values",
    }[kind]
    return ConstraintViolation(kind, fields, message, error)
