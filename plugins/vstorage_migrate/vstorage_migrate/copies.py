"""The copy of an SQLite file that is taken before its tables are changed."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import datetime, timezone
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection

from vstorage_core import StorageUnavailable

logger = logging.getLogger("vstorage.migrate")


class CopySettings(BaseModel):
    """The `migrate` section of a storage's configuration.

    Attributes:
        folder: Where the copies go; default: beside the database.
        keep_copies: How many copies are kept; 0 takes none.
        min_free_bytes: How much of the disk must stay free.
    """

    model_config = ConfigDict(extra="forbid")

    folder: Path | None = None
    keep_copies: int = Field(default=3, ge=0)
    min_free_bytes: int = Field(default=16 * 1024 * 1024, ge=0)


class SafetyCopy:
    """The copy of one migration.

    Args:
        connection: Holds the write lock, so that the copy is what the migration begins with.
        settings: Where and how many.

    Attributes:
        path: Where it stands, once it is taken; None where none is needed.
    """

    def __init__(self, connection: Connection, settings: CopySettings) -> None:
        self._connection = connection
        self._settings = settings
        self._database = _file_of(connection)
        self.path: Path | None = None

    def take(self) -> None:
        """Copy and check the file; nothing to do without one, or when it has no tables.

        Raises:
            StorageUnavailable: The copy cannot be written, or the file is damaged.
        """
        if self._database is None or self._settings.keep_copies == 0:
            return
        folder = self._settings.folder or self._database.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._require_space(folder)
            part = folder / f".{self._prefix}{os.getpid()}.part"
            try:
                self._copy_to(part)
                moment = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%S.%fZ")
                path = folder / f"{self._prefix}{moment}.sqlite"
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
            _sync(folder)
        except (OSError, sqlite3.Error) as error:
            raise StorageUnavailable(f"the copy before the migration cannot be written: {error}") from error
        self.path = path

    @contextmanager
    def discarded_on_error(self) -> Iterator[None]:
        """Remove it if the block raises: nothing was changed then."""
        try:
            yield
        except BaseException:
            if self.path is not None:
                self.path.unlink(missing_ok=True)
            raise

    def prune(self) -> None:
        """Remove the oldest copies beyond those that are kept."""
        if self.path is None:
            return
        copies = [path for path in self.path.parent.iterdir() if path.name.startswith(self._prefix)]
        # The names sort as the times in them.
        for old in sorted(copies, reverse=True)[self._settings.keep_copies :]:
            try:
                old.unlink(missing_ok=True)
            except OSError as error:
                # The migration is done; whoever asked for it must not be told otherwise.
                logger.warning("the old copy %s cannot be removed: %s", old, error.strerror)

    @property
    def _prefix(self) -> str:
        assert self._database is not None  # noqa: S101 (asked for its copies only)
        return f"{self._database.name}-before-migration-"

    def _require_space(self, folder: Path) -> None:
        pages, page_size = (
            self._connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in ("page_count", "page_size")
        )
        needed = pages * page_size
        free = shutil.disk_usage(folder).free
        if free < needed + self._settings.min_free_bytes:
            raise StorageUnavailable(
                f"the copy before the migration needs {needed / 1e6:,.1f} MB in {folder}, and"
                f" {self._settings.min_free_bytes / 1e6:,.1f} MB must stay free, but only {free / 1e6:,.1f} MB are;"
                " make room, or name another folder in the setting migrate.folder"
            )

    def _copy_to(self, part: Path) -> None:
        database = self._database
        assert database is not None  # noqa: S101 (asked before)
        part.unlink(missing_ok=True)
        # Readable for those who may read the database, from the first byte.
        os.close(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, database.stat().st_mode & 0o666))
        # A connection of its own sees what is committed, and nobody can commit meanwhile.
        with (
            closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as source,
            closing(sqlite3.connect(part)) as target,
        ):
            source.backup(target)
            # One file, without a log beside it.
            target.execute("PRAGMA journal_mode = DELETE")
            problem = target.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise StorageUnavailable(f"the database file is damaged ({problem}); restore a backup")
        with part.open("rb+") as stream:
            os.fsync(stream.fileno())


def _file_of(connection: Connection) -> Path | None:
    """The database's file, when it is one that has tables."""
    if connection.dialect.name != "sqlite":
        return None
    has_tables = connection.exec_driver_sql("SELECT EXISTS (SELECT 1 FROM sqlite_master)").scalar_one()
    file = next(row[2] for row in connection.exec_driver_sql("PRAGMA database_list") if row[1] == "main")
    return Path(file) if file and has_tables else None


def _sync(folder: Path) -> None:
    """Make the new name survive a power cut."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
