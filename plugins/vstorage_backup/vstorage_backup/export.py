"""Writing a backup: one SQLite file that stands alone, from one snapshot, whichever database it comes from.

An SQLite database is copied as it is, minus what a restore would refuse: triggers, views and virtual tables. Of a
database on a server the tables of the models are made anew and filled row by row.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO, cast

import sqlalchemy
from sqlalchemy import Connection, Integer, MetaData, Table, select
from sqlalchemy.exc import CompileError
from sqlalchemy.schema import CheckConstraint, CreateTable

from vstorage_backup.columns import converted, file_columns, file_dialect, in_chunks
from vstorage_backup.files import early_writes, file_of, require_space, temporary_file
from vstorage_backup.sequences import last_keys
from vstorage_backup.settings import backup_settings, places_of, require_usual_locks
from vstorage_core import (
    ConfigurationError,
    NoOptions,
    Storage,
    StorageUnavailable,
    __version__,
    report_progress,
)

MARK_TABLE = "vstorage_backup"
STEPS_BETWEEN_CHECKS = 10_000
_PAGES_PER_STEP = 1024
# For those who read each page once: few of them stay in the processor's cache, too.
CACHED_PAGES = 64


@dataclass(frozen=True)
class SpaceGuard:
    """Keeps a disk from being filled while a file on it grows."""

    folder: Path
    min_free_bytes: int
    what: str

    def check(self, needed_bytes: int = 0) -> None:
        """Raise `StorageUnavailable` unless so many bytes more would fit."""
        require_space(self.folder, needed_bytes, self.min_free_bytes, self.what)


def write_backup(storage: Storage, stream: BinaryIO, options: NoOptions) -> None:
    """Write a backup to the stream; the exporter `backup`.

    Raises:
        StorageUnavailable: The disk would be filled, or the database cannot be read.
    """
    places = places_of(storage)
    path = file_of(stream)
    # On another disk, which may be slow, the snapshot would be held for as long as writing to it takes.
    if path is not None and path.stat().st_dev == places.work.stat().st_dev:
        write_backup_file(storage, path)
        stream.seek(0, os.SEEK_END)
        return
    with temporary_file(places.work, places.name) as path:
        write_backup_file(storage, path, is_kept=False)
        with path.open("rb") as source:
            shutil.copyfileobj(source, stream, 1 << 20)


def write_backup_file(storage: Storage, path: Path, *, is_kept: bool = True) -> None:
    """Write a backup to an empty file that nobody else uses.

    Args:
        storage: What to back up.
        path: The file.
        is_kept: Whether it stays, so that the disk may begin with it.

    Raises:
        StorageUnavailable: The disk would be filled, or the database cannot be read.
        ConfigurationError: A column has a type that SQLite cannot hold, or the URL of the database names a vfs.
    """
    require_usual_locks(storage)
    guard = SpaceGuard(path.parent, backup_settings(storage).min_free_bytes, "the backup")
    database = places_of(storage).database
    taken_at = datetime.now(timezone.utc)
    with writing("the backup"):
        if database is not None:
            copy_file(database, path, guard, is_kept=is_kept)
        elif storage.engine.dialect.name == "sqlite":
            with storage.write_connection() as connection:
                copy_memory(connection, path, guard)
        else:
            with storage.snapshot() as connection:
                copy_rows(connection, storage.tables(), path, guard)
        mark(path, taken_at, storage.engine.dialect.name)


def copy_file(database: Path, path: Path, guard: SpaceGuard, *, is_kept: bool) -> None:
    """Copy what an SQLite file holds as it was committed last, without unused pages; writers go on meanwhile.

    Reads every row, so that a damaged database gives an error and never a damaged copy.
    """
    # Not read-only: a reader of a write-ahead log must be able to make its index.
    source_uri = f"{database.as_uri()}?mode=rw"
    with (
        closing(sqlite3.connect(source_uri, uri=True, isolation_level=None)) as source,
        early_writes(path, is_kept=is_kept) as begin_writing,
    ):
        size = _size_of(source)
        guard.check(size)
        refused: list[StorageUnavailable] = []

        def watch() -> int:
            try:
                guard.check()
            except StorageUnavailable as error:
                refused.append(error)
                return 1
            report_progress("backup", min(begin_writing(), size), size)
            return 0

        source.set_progress_handler(watch, STEPS_BETWEEN_CHECKS)
        source.execute(f"PRAGMA cache_size = {CACHED_PAGES}")
        # Who gives the file to somebody syncs it.
        source.execute("PRAGMA synchronous = OFF")
        try:
            source.execute("VACUUM INTO ?", (str(path),))
        except sqlite3.OperationalError:
            if refused:
                raise refused[0] from None
            raise
        finally:
            # Closing may write the log back into the database.
            source.execute("PRAGMA synchronous = FULL")


def copy_pages(database: Path, path: Path, guard: SpaceGuard) -> None:
    """Copy an SQLite file as it was committed last, unused pages and damage included; writers go on meanwhile.

    Half the work of `copy_file`, for what stays on this machine and is hardly ever read.
    """
    with (
        closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, isolation_level=None)) as source,
        closing(_scratch(path)) as target,
        early_writes(path) as begin_writing,
    ):
        guard.check(_size_of(source))
        source.execute(f"PRAGMA cache_size = {CACHED_PAGES}")
        # The pages of all steps are from this moment.
        source.execute("BEGIN")
        source.execute("SELECT 1 FROM sqlite_master").fetchone()

        def watch(_status: int, remaining: int, total: int) -> None:
            guard.check()
            begin_writing()
            report_progress("backup", total - remaining, total)

        source.backup(target, pages=_PAGES_PER_STEP, progress=watch)
    with path.open("rb+") as file:
        # No write-ahead log: https://www.sqlite.org/fileformat2.html#file_format_version_numbers
        file.seek(18)
        file.write(b"\1\1")


def copy_memory(connection: Connection, path: Path, guard: SpaceGuard) -> None:
    """Copy an SQLite database in memory through its one connection, on which no transaction may be open."""
    source = cast(sqlite3.Connection, connection.connection.dbapi_connection)
    guard.check(_size_of(source))
    with closing(_scratch(path)) as target:
        # In one step: between steps `backup` waits for locks for ever.
        source.backup(target)


def copy_rows(connection: Connection, tables: Sequence[Table], path: Path, guard: SpaceGuard) -> None:
    """Make the tables of the models in a new SQLite file and fill them with what the connection sees."""
    guard.check()
    with closing(_scratch(path)) as file:
        file.execute("BEGIN")
        for table in _file_tables(tables):
            try:
                file.execute(str(CreateTable(table).compile(dialect=file_dialect())))
            except CompileError as error:
                raise ConfigurationError(
                    f"table {table.name} cannot be kept in an SQLite file: {error}; give the column a type that every"
                    " database has, with the special one as variant, e.g. JSON().with_variant(…)"
                ) from error
        for table in tables:
            _copy_table(connection, table, file, guard)
        for table_name, last_key in last_keys(connection, tables).items():
            file.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table_name,))
            file.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table_name, last_key))
        file.execute("COMMIT")


def mark(path: Path, taken_at: datetime, engine: str) -> None:
    """Note in the file when and from what it was taken, and remove what is neither table nor row."""
    with closing(_scratch(path)) as file:
        for kind, name in file.execute(
            "SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'view') OR sql LIKE 'CREATE VIRTUAL TABLE%'"
        ).fetchall():
            # A view takes its triggers along.
            file.execute(f"DROP {kind} IF EXISTS {quoted(name)}")
        file.execute(f"DROP TABLE IF EXISTS {MARK_TABLE}")
        file.execute(f"CREATE TABLE {MARK_TABLE} (taken_at TEXT NOT NULL, version TEXT NOT NULL, engine TEXT NOT NULL)")
        file.execute(
            f"INSERT INTO {MARK_TABLE} VALUES (?, ?, ?)",  # noqa: S608 (a constant)
            (taken_at.isoformat(), __version__, engine),
        )


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Raise `StorageUnavailable` in place of what SQLite and the system say while a file is written."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StorageUnavailable(f"{what} cannot be written: {reason}") from error


def quoted(name: str) -> str:
    """The name as an SQL identifier of SQLite."""
    return '"' + name.replace('"', '""') + '"'


def _size_of(source: sqlite3.Connection) -> int:
    pages, page_size = (source.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return int(pages * page_size)


def _scratch(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    # What a kill leaves of the file is thrown away, so it needs no journal, and no file of one is left behind.
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    return connection


def _file_tables(tables: Sequence[Table]) -> list[Table]:
    """The tables as the file has them: without what only the server's language can say."""
    metadata = MetaData()
    made = []
    for table in tables:
        copy = table.to_metadata(metadata)
        for file_column in file_columns(table.columns):
            column = copy.columns[file_column.name]
            column.type = file_column.declared_type
            column.server_default = column.computed = column.identity = None
        if table.autoincrement_column is not None and len(table.primary_key) == 1:
            # SQLite counts keys only in columns of just this type.
            copy.columns[table.autoincrement_column.name].type = Integer()
        copy.constraints -= {rule for rule in copy.constraints if isinstance(rule, CheckConstraint)}
        copy.indexes.clear()
        made.append(copy)
    return made


def _copy_table(connection: Connection, table: Table, file: sqlite3.Connection, guard: SpaceGuard) -> None:
    columns = file_columns(table.columns)
    names = ", ".join(quoted(column.name) for column in columns)
    insert = f"INSERT INTO {quoted(table.name)} ({names}) VALUES ({', '.join('?' * len(columns))})"  # noqa: S608
    total = connection.execute(select(sqlalchemy.func.count()).select_from(table)).scalar_one()
    # In the order of the keys, so that equal databases give equal files.
    statement = select(*(column.server_expression() for column in columns)).order_by(*table.primary_key.columns)
    done = 0
    result = connection.execute(statement.execution_options(yield_per=250))
    for rows in in_chunks(result, columns):
        guard.check()
        file.executemany(insert, converted(rows, [column.dump for column in columns]))
        done += len(rows)
        report_progress(table.name, done, total)
