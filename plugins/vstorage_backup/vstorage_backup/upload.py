"""An uploaded SQLite file: opened so that nothing in it can run, and checked as far as no model is needed."""

from __future__ import annotations

import hashlib
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import Table

from vstorage_backup.columns import FileColumn, in_chunks
from vstorage_backup.export import MARK_TABLE, STEPS_BETWEEN_CHECKS, quoted
from vstorage_backup.helpers import Helpers
from vstorage_core import ImportRefused, report_progress

_MAGIC = b"SQLite format 3\0"
_OTHER_FORMATS = {
    b"PK\x03\x04": "a ZIP archive; a CSV export is imported with the importer csv",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
}
_CHUNK_BYTES = 1 << 20


def receive(stream: BinaryIO, path: Path, size: int) -> None:
    """Copy the upload to a file of our own, but no more than its size: some devices have no end."""
    done = 0
    with path.open("wb") as target:
        while chunk := stream.read(min(_CHUNK_BYTES, size - done)):
            target.write(chunk)
            done += len(chunk)
            report_progress("upload", done, size)


class Upload:
    """A file whose structure is sound: tables and indexes only, and everything SQLite can check of it.

    Attributes:
        path: The file.
        size_bytes: Of the file.
        connection: Reads it; text that is not UTF-8 comes as bytes.
        tables: Names of its tables with the names of their columns, without SQLite's own.
        computed: Those columns that the file computes, as (table, column).
        row_numbers: Names of tables with the column that is SQLite's own number of the row, where it is their key.
        taken_at: When it was taken, if vstorage made it.
    """

    def __init__(self, path: Path, sha256: Future[str]) -> None:
        self.path = path
        self._sha256 = sha256
        self._state = _state_of(path)
        self.size_bytes = path.stat().st_size
        self.connection = sqlite3.connect(self.uri, uri=True, isolation_level=None)
        self.connection.text_factory = _text
        self.tables: dict[str, list[str]] = {}
        self.computed: set[tuple[str, str]] = set()
        self.row_numbers: dict[str, str] = {}
        self.taken_at: datetime | None = None

    @property
    def sha256(self) -> str:
        """Of the file, in hexadecimal; waits until it is known.

        Raises:
            ImportRefused: The file cannot be read any more.
        """
        with _reading():
            return self._sha256.result()

    def require_unchanged(self) -> None:
        """Refuse a file that somebody has written to, moved or replaced since it was opened.

        Raises:
            ImportRefused: So what was read of it may be neither the old nor the new one.
        """
        if _state_of(self.path) != self._state:
            raise ImportRefused("the file was changed while it was read; let nobody write to it, and try again")

    def end_checks(self) -> None:
        """Wait for the hash, and lift the limit of time: from now on only rows are read that were read before."""
        # When it is needed, others may wait to write.
        wait([self._sha256])
        self.connection.set_progress_handler(None, 0)

    @property
    def uri(self) -> str:
        """Opens the file so that SQLite neither writes to it nor looks for files beside it."""
        return f"{self.path.as_uri()}?mode=ro&immutable=1"

    def rows(self, table: Table, columns: Sequence[FileColumn], where: str = "", *values: Any) -> Iterator[list[Any]]:
        """The table's rows in chunks, in the order in which they stand in the file."""
        names = ", ".join(quoted(column.name) for column in columns)
        # Not through an index: only `integrity_check` knows whether it has all rows.
        sql = f"SELECT {names} FROM {quoted(table.name)} NOT INDEXED {where}"  # noqa: S608
        yield from in_chunks(self.connection.execute(sql, values), columns)

    def is_clean_text(self, table: Table, columns: Sequence[FileColumn], where: str = "", *values: Any) -> bool:
        """Whether all values of these columns, which are texts, are UTF-8 without NUL characters."""
        names = ", ".join(quoted(column.name) for column in columns) or "NULL"
        self.connection.text_factory = str
        try:
            rows = self.connection.execute(f"SELECT {names} FROM {quoted(table.name)} NOT INDEXED {where}", values)  # noqa: S608
            return not any("\0" in "".join(filter(None, row)) for row in rows)
        # So the driver says that a text is not UTF-8; whatever else it means, whoever looks at the rows finds again.
        except (sqlite3.OperationalError, UnicodeDecodeError):
            return False
        finally:
            self.connection.text_factory = _text

    def count(self, table: str) -> int:
        """How many rows the table has; 0 if the file does not have it."""
        if table not in self.tables:
            return 0
        return int(self.scalar(f"SELECT count(*) FROM {quoted(table)} NOT INDEXED"))  # noqa: S608

    def scalar(self, sql: str, values: Sequence[Any] = ()) -> Any:
        """The first column of the first row, or None."""
        row = self.connection.execute(sql, values).fetchone()
        return None if row is None else row[0]

    def last_keys(self, tables: Sequence[Table]) -> dict[str, int]:
        """The last key that each table has given, as far as the file tells."""
        keys: dict[str, int] = {}
        if self.scalar("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'") is not None:
            for name, key in self.connection.execute("SELECT name, seq FROM sqlite_sequence").fetchall():
                if isinstance(name, str) and isinstance(key, int):
                    keys[name] = key
        for table in tables:
            column = table.autoincrement_column
            if column is not None and column.name in self.tables.get(table.name, ()):
                highest = self.scalar(f"SELECT max({quoted(column.name)}) FROM {quoted(table.name)}")  # noqa: S608
                keys[table.name] = max(keys.get(table.name, 0), highest or 0)
        return keys


@contextmanager
def opened(path: Path, helpers: Helpers, *, integrity_check: bool, max_seconds: float) -> Iterator[Upload]:
    """The upload, checked as far as no model is needed.

    Inside the block, too, what SQLite finds wrong with the file is an `ImportRefused`.

    Args:
        path: The file; who takes something of it calls `Upload.require_unchanged` at the end.
        helpers: For its hash.
        integrity_check: Whether indexes are checked too.
        max_seconds: Longest time until `end_checks` is called.

    Raises:
        ImportRefused: It is no SQLite file that stands alone, it is damaged, it has more than tables and indexes, or
            reading it takes too long.
    """
    with _reading():
        _check_header(path)
    deadline = time.monotonic() + max_seconds
    try:
        with (
            path.open("rb") as stream,
            helpers.doing(partial(_sha256, stream)) as sha256,
            closing((upload := Upload(path, sha256)).connection),
        ):
            upload.connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS_BETWEEN_CHECKS)
            for pragma in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0", "query_only = ON"):
                upload.connection.execute(f"PRAGMA {pragma}")
            _check_structure(upload)
            _check_integrity(upload, "integrity_check" if integrity_check else "quick_check")
            upload.taken_at = _taken_at(upload)
            yield upload
    # An error text that quotes broken text from the file is a UnicodeDecodeError.
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if time.monotonic() > deadline:
            raise ImportRefused(
                f"checking the file takes longer than {max_seconds:g} s; is it really a backup? The limit is the"
                " setting backup.max_check_seconds"
            ) from error
        raise ImportRefused("the file is damaged: SQLite cannot read it", [{"problem": _harmless(error)}]) from error


def _sha256(stream: BinaryIO, is_over: threading.Event) -> str:
    digest = hashlib.sha256()
    while (chunk := stream.read(_CHUNK_BYTES)) and not is_over.is_set():
        digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ImportRefused(f"the file cannot be read: {error.strerror}") from error


def _state_of(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _check_header(path: Path) -> None:
    size = path.stat().st_size
    with path.open("rb") as stream:
        header = stream.read(100)
    for magic, meaning in _OTHER_FORMATS.items():
        if header.startswith(magic):
            raise ImportRefused(f"the file is not a backup but {meaning}")
    if size == 0:
        raise ImportRefused("the file is empty")
    if not header.startswith(_MAGIC):
        raise ImportRefused("the file is not an SQLite database, or it is encrypted")
    if len(header) < 100:
        raise ImportRefused("the file is cut off in its first 100 bytes; copy it again")
    page_size = int.from_bytes(header[16:18], "big")
    page_size = 65536 if page_size == 1 else page_size
    if page_size < 512 or page_size & (page_size - 1):
        raise ImportRefused("the file is damaged: its header names an impossible page size")
    if 2 in header[18:20]:
        raise ImportRefused(
            "the file is a copy of a database in use, whose last changes stand in another file that ends in -wal. Take"
            " a backup with `vstorage export backup` instead; or, if both files lie together, run"
            ' sqlite3 FILE "PRAGMA journal_mode = DELETE" first'
        )
    if int.from_bytes(header[56:60], "big") not in (0, 1):
        raise ImportRefused("the texts of the file are stored as UTF-16; only UTF-8 is supported")
    pages = int.from_bytes(header[28:32], "big")
    # The page count is valid only where a version of SQLite wrote it that keeps it.
    is_counted = pages and header[24:28] == header[92:96]
    expected = pages * page_size if is_counted else -(-size // page_size) * page_size
    if size != expected:
        what = "cut off" if size < expected else "longer than it should be"
        raise ImportRefused(
            f"the file is {what}: it has {size:,} bytes and its header says {expected:,}; copy it again"
        )


def _check_structure(upload: Upload) -> None:
    names = []
    for kind, name, sql in upload.connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall():
        if not isinstance(kind, str) or not isinstance(name, str) or not isinstance(sql, str | None):
            raise ImportRefused("the file is damaged: its list of tables holds values that are no text")
        if kind not in ("table", "index"):
            raise ImportRefused(f"the file contains the {kind} {name!r}; a backup has only tables and indexes")
        if kind == "table" and (sql or "").lstrip().upper().startswith("CREATE VIRTUAL"):
            raise ImportRefused(f"the file contains the virtual table {name!r}; a backup has only ordinary tables")
        if kind == "table" and not name.lower().startswith("sqlite_"):
            names.append(name)
    for name in names:
        xinfo = "SELECT name, hidden, pk FROM pragma_table_xinfo(?)"
        columns = upload.connection.execute(xinfo, (name,)).fetchall()
        upload.tables[name] = [column for column, _, _ in columns]
        upload.computed.update((name, column) for column, hidden, _ in columns if hidden)
        keys = [column for column, _, place in columns if place]
        # Any other key has an index, also where there is no row number.
        if len(keys) == 1 and not upload.scalar("SELECT 1 FROM pragma_index_list(?) WHERE origin = 'pk'", (name,)):
            upload.row_numbers[name] = keys[0]


def _check_integrity(upload: Upload, check: str) -> None:
    report_progress(check, 0)
    found = [message for (message,) in upload.connection.execute(f"PRAGMA {check}(10)")]
    if found != ["ok"]:
        raise ImportRefused(
            f"the file is damaged: SQLite's {check} finds errors",
            [{"problem": str(message)} for message in found],
        )


def _taken_at(upload: Upload) -> datetime | None:
    if "taken_at" not in upload.tables.get(MARK_TABLE, ()):
        return None
    value = upload.scalar(f"SELECT taken_at FROM {MARK_TABLE}")  # noqa: S608 (a constant)
    try:
        return datetime.fromisoformat(value).astimezone(timezone.utc)
    except (TypeError, ValueError, OverflowError):
        return None


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw


def _harmless(error: Exception) -> str:
    return str(error) if isinstance(error, sqlite3.Error) else "a text is not valid UTF-8"
