"""The live SQLite file, seen from beside the storage: which rows of an upload it has already.

SQLite compares the two many times faster than values are checked and written, and most of a machine's own backup is
still there. What is there, in a table that is sound, is neither checked nor written again.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from sqlalchemy import Table

from vstorage_backup.export import CACHED_PAGES, STEPS_BETWEEN_CHECKS, quoted
from vstorage_backup.helpers import Helpers
from vstorage_backup.ranges import Ranges, as_ranges
from vstorage_backup.upload import Upload
from vstorage_core.engine.driver_errors import translated

# Each is some statements of its own: where there are more of them, a whole table is quicker.
_MOST_RANGES = 10_000


class LiveFile:
    """The file beside an upload; for one thread.

    Attributes:
        path: The file.
        has_log: Whether it has a write-ahead log. Without one, who reads for long is in the way of writers and they of
            him: then it is read when the turn to write is ours.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        with translated():
            self.has_log = connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        self._version = self._data_version()
        self._sound: Future[set[str]] | None = None

    @contextmanager
    def checked_by(self, helpers: Helpers, tables: Sequence[Table]) -> Iterator[None]:
        """Let the helpers find out which tables `may_keep_rows`, while the block runs."""
        names = [table.name for table in tables]
        with helpers.doing(partial(_sound_tables, self.path, names)) as self._sound:
            yield

    def attach(self, upload: Upload) -> None:
        """Compare with this one from now on."""
        self._connection.execute("ATTACH DATABASE ? AS upload", (upload.uri,))
        self._connection.execute(f"PRAGMA upload.cache_size = {CACHED_PAGES}")

    def was_written(self) -> bool:
        """Whether somebody has committed a change since this was asked last, or since the file was opened."""
        before, self._version = self._version, self._data_version()
        return self._version != before

    def may_keep_rows(self, table: Table) -> bool:
        """Whether rows of the table may stay where they are; waits until that is known.

        Not where nobody has checked; where the application has triggers, for which it makes a difference; and where
        SQLite finds the table or an index of it damaged: that is mended by writing all rows again.
        """
        return self._sound is not None and table.name in self._sound.result()

    def new_rows(self, table: Table, names: Sequence[str]) -> Ranges | None:
        """The upload's rows that the live table does not have letter for letter.

        Args:
            table: Of both.
            names: Columns that must be equal; the key's are among them.

        Returns:
            None where that cannot be told in few words: there is no key, columns are of other types, or new rows lie
            all over the table.
        """
        with translated():
            if not self._is_comparable(table, names):
                return None
        by_key = " AND ".join(f"ours.{key} = theirs.{key}" for key in map(quoted, _keys_of(table)))
        # A column's own collation may take a for A.
        same = "".join(f" AND ours.{name} COLLATE BINARY IS theirs.{name}" for name in map(quoted, names))
        sql = (
            f"SELECT theirs.rowid FROM upload.{quoted(table.name)} AS theirs NOT INDEXED"  # noqa: S608
            f" LEFT JOIN main.{quoted(table.name)} AS ours ON {by_key}{same}"
            f" WHERE ours.{quoted(_keys_of(table)[0])} IS NULL ORDER BY theirs.rowid"
        )
        # Where the file is at fault, whoever looks at its rows finds it again.
        try:
            ranges = as_ranges(number for (number,) in self._connection.execute(sql))
        except sqlite3.Error:
            return None
        return ranges if len(ranges) <= _MOST_RANGES else None

    def lost_rows(self, table: Table) -> int:
        """How many rows of the live table have keys that the upload does not have."""
        sql = f"SELECT count(*) FROM main.{quoted(table.name)} WHERE {is_lost(table)}"  # noqa: S608
        with translated():
            return int(self._connection.execute(sql).fetchone()[0])

    def _is_comparable(self, table: Table, names: Sequence[str]) -> bool:
        columns = "SELECT name, type, pk FROM pragma_table_info(?, ?)"
        ours, theirs = (
            {name: (type_, key) for name, type_, key in self._connection.execute(columns, (table.name, schema))}
            for schema in ("main", "upload")
        )
        keys = {name for name, (_, key) in ours.items() if key}
        return (
            # So its rows are found by an index or by number, one for each of the file's.
            keys == set(_keys_of(table)) != set()
            # Of two types, '01' and 1 are equal to SQLite.
            and all(name in ours and name in theirs and ours[name][0] == theirs[name][0] for name in names)
            # Else that is what the word would mean.
            and "rowid" not in map(str.lower, theirs)
        )

    def _data_version(self) -> int:
        with translated():
            return int(self._connection.execute("PRAGMA data_version").fetchone()[0])


def is_lost(table: Table) -> str:
    """SQL that is true for a live row whose key the file, which is attached as `upload`, does not have."""
    keys = [quoted(key) for key in _keys_of(table)]
    theirs = f"SELECT {', '.join(keys)} FROM upload.{quoted(table.name)} NOT INDEXED"  # noqa: S608
    # SQLite lets a key be NULL that no model would, and nothing is equal to it.
    return f"({', '.join(keys)}) NOT IN ({theirs}) OR {' OR '.join(f'{key} IS NULL' for key in keys)}"


def _keys_of(table: Table) -> list[str]:
    return [key.name for key in table.primary_key.columns]


@contextmanager
def opened_live(path: Path) -> Iterator[LiveFile]:
    """The live SQLite file, for the block.

    Raises:
        StorageUnavailable: It cannot be read, or writers held it for too long.
    """
    with _connected(path) as connection:
        yield LiveFile(path, connection)


def _sound_tables(path: Path, names: Sequence[str], is_over: threading.Event) -> set[str]:
    found = set()
    with _connected(path) as connection:
        connection.set_progress_handler(is_over.is_set, STEPS_BETWEEN_CHECKS)
        try:
            if connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'trigger'").fetchone() is None:
                for name in names:
                    # Before SQLite 3.33 it looks at all tables each time.
                    if connection.execute(f"PRAGMA integrity_check({quoted(name)})").fetchone() == ("ok",):
                        found.add(name)
        except sqlite3.Error:
            pass  # as good as damaged
    return found


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    # Not read-only: a reader of a write-ahead log must be able to make its index.
    uri = f"{path.as_uri()}?mode=rw"
    with translated():
        connection = sqlite3.connect(uri, uri=True, isolation_level=None)
    with closing(connection):
        for pragma in ("trusted_schema = OFF", "query_only = ON", f"cache_size = {CACHED_PAGES}"):
            connection.execute(f"PRAGMA {pragma}")
        yield connection
