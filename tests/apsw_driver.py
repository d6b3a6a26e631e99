"""APSW's SQLite behind the interface of Python's `sqlite3`, so that a storage runs on a disk (VFS) made for a test."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import apsw
import pytest
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite

_ERRORS: dict[type[apsw.Error], type[sqlite3.Error]] = {
    apsw.ConstraintError: sqlite3.IntegrityError,
    apsw.MismatchError: sqlite3.IntegrityError,
    apsw.CorruptError: sqlite3.DatabaseError,
    apsw.NotADBError: sqlite3.DatabaseError,
    apsw.TooBigError: sqlite3.DataError,
    apsw.BindingsError: sqlite3.ProgrammingError,
    apsw.ConnectionClosedError: sqlite3.ProgrammingError,
    apsw.CursorClosedError: sqlite3.ProgrammingError,
    apsw.MisuseError: sqlite3.ProgrammingError,
}


@contextmanager
def _sqlite3_errors() -> Iterator[None]:
    try:
        yield
    except apsw.Error as error:
        # Older releases put the class in front of SQLite's text.
        text = str(error).removeprefix(f"{type(error).__name__}: ")
        raise _ERRORS.get(type(error), sqlite3.OperationalError)(text) from error


class Cursor:
    """Reads all rows at once, so that no statement stays open behind the caller's back."""

    arraysize = 1

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.description: tuple[tuple[Any, ...], ...] | None = None
        self.lastrowid: int | None = None
        self.rowcount = -1
        self._rows: Iterator[tuple[Any, ...]] = iter(())
        self._cursor = connection.apsw.cursor()
        # Afterwards APSW does not tell the columns.
        self._cursor.exec_trace = self._before_execution

    def _before_execution(self, cursor: apsw.Cursor, _statement: str, _bindings: object) -> bool:
        self.description = tuple((name, *[None] * 6) for name, _ in cursor.get_description()) or None
        return True

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Cursor:
        with _sqlite3_errors():
            self._rows = iter(list(self._cursor.execute(statement, tuple(parameters))))
            self.lastrowid = self.connection.apsw.last_insert_rowid()
            changes_rows = statement.lstrip()[:7].upper().startswith(("INSERT", "UPDATE", "DELETE", "REPLACE"))
            self.rowcount = self.connection.apsw.changes() if changes_rows else -1
        return self

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> Cursor:
        self.rowcount = sum(self.execute(statement, row).rowcount for row in rows)
        return self

    def fetchone(self) -> tuple[Any, ...] | None:
        return next(self._rows, None)

    def fetchmany(self, size: int = 1) -> list[tuple[Any, ...]]:
        return [row for row, _ in zip(self._rows, range(size), strict=False)]

    def fetchall(self) -> list[tuple[Any, ...]]:
        return list(self._rows)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return self._rows

    def close(self) -> None:
        self._cursor.close(True)


class Connection:
    """Always as `sqlite3` is with `isolation_level = None`: a transaction begins where somebody says BEGIN."""

    isolation_level: str | None = None

    def __init__(self, filename: str, vfs: str, timeout: float, uri: bool) -> None:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE | (apsw.SQLITE_OPEN_URI if uri else 0)
        with _sqlite3_errors():
            self.apsw = apsw.Connection(filename, flags=flags, vfs=vfs)
            self.apsw.set_busy_timeout(int(timeout * 1000))

    @property
    def in_transaction(self) -> bool:
        return self.apsw.in_transaction

    @property
    def total_changes(self) -> int:
        return self.apsw.total_changes()

    def cursor(self) -> Cursor:
        with _sqlite3_errors():
            return Cursor(self)

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> Cursor:
        return self.cursor().execute(statement, parameters)

    def create_function(self, name: str, narg: int, func: Callable[..., Any], *, deterministic: bool = False) -> None:
        self.apsw.create_scalar_function(name, func, narg, deterministic=deterministic)

    def commit(self) -> None:
        if self.in_transaction:
            self.execute("COMMIT")

    def rollback(self) -> None:
        if self.in_transaction:
            self.execute("ROLLBACK")

    def close(self) -> None:
        with _sqlite3_errors():
            self.apsw.close(True)


class Driver:
    """What SQLAlchemy expects of a DB-API module; its connections use the VFS of that name."""

    apilevel = "2.0"
    threadsafety = 1
    paramstyle = "qmark"
    sqlite_version = apsw.sqlite_lib_version()
    sqlite_version_info = tuple(map(int, sqlite_version.split(".")))
    Binary = memoryview
    Warning = sqlite3.Warning
    Error = sqlite3.Error
    InterfaceError = sqlite3.InterfaceError
    DatabaseError = sqlite3.DatabaseError
    DataError = sqlite3.DataError
    OperationalError = sqlite3.OperationalError
    IntegrityError = sqlite3.IntegrityError
    InternalError = sqlite3.InternalError
    ProgrammingError = sqlite3.ProgrammingError
    NotSupportedError = sqlite3.NotSupportedError

    def __init__(self, vfs: str) -> None:
        self._vfs = vfs

    def connect(
        self, database: str, timeout: float = 5.0, *, uri: bool = False, check_same_thread: bool = True
    ) -> Connection:
        return Connection(database, self._vfs, timeout, uri)


@contextmanager
def sqlite_on(disk: apsw.VFS) -> Iterator[None]:
    """Engines for SQLite that are made inside the block keep their files on that disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SQLiteDialect_pysqlite, "import_dbapi", classmethod(lambda _cls: Driver(disk.vfs_name)))
        yield
