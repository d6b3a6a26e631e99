"""SQLite as an engine for machines: write-ahead log, one writer at a time, readers that cannot write."""

from __future__ import annotations

import functools
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from decimal import Context, Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic_core import to_json
from sqlalchemy import Connection, DateTime, Dialect, Engine, Float, Numeric, StaticPool, event
from sqlalchemy.dialects.sqlite import DATETIME
from sqlalchemy.engine import URL

from vstorage_core.engine.backend import Backend, EngineSettings, create_engine
from vstorage_core.engine.driver_errors import raise_translated, translated
from vstorage_core.engine.gate import ReadTurn, ReadTurns, WriteGate
from vstorage_core.errors import ConfigurationError, InvalidInput, StorageUnavailable, TransactionError

logger = logging.getLogger("vstorage")

_CHECKPOINT_TIMEOUT_MILLISECONDS = 500
# A disk with less room than this takes one more write or none.
_FULL_DISK_BYTES = 1024 * 1024
# As many as there are turns to read; of writers there is one.
_IDLE_ROW_CONNECTIONS = 2
_CANNOT_BE_WRITTEN = "the database's file or folder cannot be written"
# Python's default context rounds to 28 digits.
_EXACT = Context(prec=1000)
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


class SqliteBackend(Backend):
    """An SQLite file, or SQLite in memory with one connection for all."""

    writes_rows = True
    _path: Path | None = None
    _has_log = False
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
            self._path, self._log_path = path, Path(f"{path}-wal")
            if not _is_writable(path) and not (self._log_path.exists() and self._log_path.stat().st_size):
                # Even a reader of a write-ahead log must write beside it, unless nobody else does.
                self.is_read_only = True
                url = url.set(database=f"file:{quote(str(path))}")
                url = url.update_query_dict({"uri": "true", "mode": "ro", "immutable": "1"})
        self.gate = WriteGate()
        self._read_turns = ReadTurns()
        self._checkpoint_at_bytes = settings.journal_size_limit_bytes
        super().__init__(url, settings)
        if not self.single_connection:
            self.read_engine = self._open_engine(url, read_only=True)
        self._open_for_rows()

    def _open_for_rows(self) -> None:
        self._row_writers = _RowConnections(self.write_engine)
        self._row_readers = _RowConnections(self.read_engine)

    def close(self) -> None:
        self._row_writers.close()
        self._row_readers.close()
        super().close()
        self._open_for_rows()

    def _open_engine(self, url: URL, *, read_only: bool = False) -> Engine:
        # The one connection of a database in memory is shared: who gives it back must not undo what others have begun.
        pool: dict[str, Any] = {"max_overflow": 40}
        if self.single_connection:
            pool = {"poolclass": StaticPool, "pool_reset_on_return": None}
        engine = create_engine(url, connect_args={"check_same_thread": False, "uri": True}, **pool)
        # Dialects look up how a type is stored here; SQLAlchemy's own Decimal on SQLite rounds to 10 places.
        engine.dialect.colspecs = {
            **engine.dialect.colspecs,
            Numeric: _SqliteDecimal,
            Float: Float,
            DateTime: _SqliteDateTime,
        }
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
        if not self.single_connection and not self.is_read_only:
            try:
                mode = execute("PRAGMA journal_mode = WAL").fetchone()[0]
            except sqlite3.OperationalError as error:
                mode = str(error)
            self._has_log = mode == "wal"
            if not self._has_log:
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
        if self.is_read_only:
            raise StorageUnavailable(_CANNOT_BE_WRITTEN)
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
        blocked = True
        try:
            with self.write_engine.connect() as connection:
                execute = connection.connection.cursor().execute
                execute(f"PRAGMA busy_timeout = {_CHECKPOINT_TIMEOUT_MILLISECONDS}")
                try:
                    blocked = execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
                finally:
                    execute(f"PRAGMA busy_timeout = {int(self.settings.timeout_seconds * 1000)}")
        except (sqlite3.Error, StorageUnavailable) as error:
            # What was written is stored in the log: whoever wrote it must not take it for refused.
            logger.warning("%s: the write-ahead log cannot be written back: %s", self.url.database, error)
        limit = self.settings.journal_size_limit_bytes
        # Behind a long reader every further try would cost its time-out: wait until it is worth it again.
        self._checkpoint_at_bytes = size + limit // 4 if blocked else limit

    def reads_at_once(self) -> bool:
        # As for readers of a log, and of a file that nobody writes.
        needs_no_lock = self._has_log or self.is_read_only
        return needs_no_lock and self._row_readers.has_idle() and not self._read_turns.all_taken()

    def lock(self, connection: Connection, name: str) -> None:
        """A write transaction on SQLite excludes all others already."""

    @contextmanager
    def row_transaction(self, timeout_seconds: float | None = None) -> Iterator[sqlite3.Cursor]:
        self.acquire_write(timeout_seconds)
        try:
            with _RowCursor(self._row_writers) as cursor:
                if cursor.connection.in_transaction:
                    raise TransactionError(
                        "a transaction of storage.engine is open on the one connection that a database in memory has;"
                        " end that one first"
                    )
                try:
                    cursor.execute("BEGIN IMMEDIATE")
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
    def row_savepoint(self, cursor: sqlite3.Cursor) -> Iterator[None]:
        with translated():
            cursor.execute("SAVEPOINT vstorage_rows")
            try:
                yield
                cursor.execute("RELEASE vstorage_rows")
            except BaseException:
                if cursor.connection.in_transaction:
                    cursor.execute("ROLLBACK TO vstorage_rows")
                    cursor.execute("RELEASE vstorage_rows")
                raise

    def row_statement(
        self, cursor: sqlite3.Cursor, entered: Any, half_done: Callable[[BaseException], object]
    ) -> AbstractContextManager[Any]:
        return _RowStatement(cursor.connection, entered, half_done)

    def read_turn(self) -> AbstractContextManager[None]:
        return ReadTurn(self._read_turns)

    @contextmanager
    def row_reader(self, connection: Connection | None = None) -> Iterator[sqlite3.Cursor]:
        if connection is not None:
            with translated():
                yield connection.connection.cursor()  # type: ignore[misc]
            return
        if self.single_connection:
            # Others must not see what is not committed yet.
            self.acquire_write()
        try:
            with ReadTurn(self._read_turns), _RowCursor(self._row_readers) as cursor:
                yield cursor
        finally:
            if self.single_connection:
                self.release_write()

    def check_files(self) -> dict[str, int]:
        if self._path is None or self._log_path is None:
            return {}
        free_bytes = shutil.disk_usage(self._path.parent).free
        # A disk that reports errors is often mounted read-only by the system, under the feet of who uses it.
        if self.is_read_only or not _is_writable(self._path):
            raise StorageUnavailable(_CANNOT_BE_WRITTEN)
        if free_bytes < _FULL_DISK_BYTES:
            raise StorageUnavailable(f"the disk is full: {free_bytes:,} bytes are free; make room")
        return {
            "database_bytes": _size_of(self._path),
            "wal_bytes": _size_of(self._log_path),
            "free_disk_bytes": free_bytes,
        }

    def begin_snapshot(self, connection: Connection) -> Connection:
        # BEGIN alone takes no snapshot; the first read does.
        connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar()
        return connection


def _size_of(path: Path) -> int:
    """Of a file that comes and goes."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _is_writable(path: Path) -> bool:
    return os.access(path.parent, os.W_OK) and (not path.exists() or os.access(path, os.W_OK))


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


class _RowConnections:
    """Connections for rows: SQLAlchemy's pool takes as long to hand one out and take it back as SQLite to find a row.

    Those that nobody uses lie on a stack; who finds none opens one. A database in memory is one connection, which stays
    in the pool and is everybody's.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_shared = isinstance(engine.pool, StaticPool)
        self._idle: list[sqlite3.Connection] = []
        self._is_closed = False

    def has_idle(self) -> bool:
        """Whether one is open that nobody uses."""
        return bool(self._idle)

    def take(self) -> sqlite3.Connection:
        try:
            return self._idle.pop()
        except IndexError:
            pass
        with translated():
            pooled: Any = self._engine.raw_connection()
        connection: sqlite3.Connection = pooled.driver_connection
        if not self._is_shared:
            pooled.detach()
        return connection

    def give_back(self, connection: sqlite3.Connection) -> None:
        if self._is_shared:
            return
        # In a transaction still, because it could not be rolled back either.
        if connection.in_transaction or len(self._idle) >= _IDLE_ROW_CONNECTIONS:
            connection.close()
            return
        self._idle.append(connection)
        if self._is_closed:
            self.close()

    def close(self) -> None:
        """Close those that nobody uses; the others are closed when they are given back."""
        self._is_closed = True
        while self._idle:
            self._idle.pop().close()


class _RowCursor:
    """The driver's cursor on one of the connections, raising our exceptions."""

    def __init__(self, connections: _RowConnections) -> None:
        self._connections = connections

    def __enter__(self) -> sqlite3.Cursor:
        self._cursor = self._connections.take().cursor()
        return self._cursor

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            # On a row still it would keep the log from being written back.
            self._cursor.close()
        finally:
            self._connections.give_back(self._cursor.connection)
        raise_translated(error)


class _RowStatement:
    # In a savepoint SQLite copies every page before it changes it, which costs more than the two rows. It undoes a
    # statement that fails by itself; only a full disk or an interrupt can come between a row and its audit row.

    def __init__(
        self, connection: sqlite3.Connection, entered: Any, half_done: Callable[[BaseException], object]
    ) -> None:
        self._connection = connection
        self._entered = entered
        self._half_done = half_done
        self._changes_before = 0

    def __enter__(self) -> Any:
        self._changes_before = self._connection.total_changes
        return self._entered

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        connection = self._connection
        if connection.total_changes != self._changes_before or not connection.in_transaction:
            self._half_done(error)
        raise_translated(error)


class _SqliteDateTime(DATETIME):
    """A time as SQLAlchemy writes it into SQLite, in a fraction of the time."""

    def bind_processor(self, dialect: Dialect) -> Any:
        general: Any = super().bind_processor(dialect)
        if self._storage_format != DATETIME._storage_format:
            return general

        def bind(value: Any) -> Any:
            if not isinstance(value, datetime):
                return general(value)
            # pydantic writes it in a third of isoformat()'s time, without microseconds where there are none.
            text = to_json(value)[1:27].decode().replace("T", " ")
            return text if text[19:20] == "." else text[:19] + ".000000"

        return bind


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
                raise InvalidInput("a decimal has more digits than the 15 that SQLite keeps")
            return stored

        return bind

    def result_processor(self, dialect: Dialect, coltype: object) -> Any:
        exponent = None if self.scale is None else Decimal(1).scaleb(-self.scale)

        def load(value: Any) -> Any:
            if value is None or not self.asdecimal:
                return value
            exact = Decimal(repr(value) if isinstance(value, float) else value)
            return exact if exponent is None else exact.quantize(exponent, context=_EXACT)

        return load
