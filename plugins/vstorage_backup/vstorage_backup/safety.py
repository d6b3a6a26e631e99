"""Safety copies: what a restore replaced, kept as a backup of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from sqlalchemy import Dialect

from vstorage_backup.export import SpaceGuard, mark, writing
from vstorage_backup.files import publish, sync_folder, temporary_file
from vstorage_backup.settings import BackupSettings, Places

logger = logging.getLogger("vstorage.backup")

_INFIX = "-before-restore-"


class SafetyCopy:
    """The safety copy of one restore.

    Attributes:
        absence: Why none is made, or None.
        path: Where it stands, once it is made.
    """

    def __init__(self, places: Places, settings: BackupSettings) -> None:
        self._places = places
        self._settings = settings
        self.path: Path | None = None
        self.absence: str | None = None
        if settings.keep_replaced == 0:
            self.absence = "the setting backup.keep_replaced is 0"
        elif places.folder is None:
            self.absence = "there is no folder for it; name one in the setting backup.folder"

    def take(self, copy: Callable[[Path, SpaceGuard], None], dialect: Dialect) -> None:
        """Make it, unless none is wanted.

        Args:
            copy: Writes the database to a file.
            dialect: Of the database.

        Raises:
            StorageUnavailable: It cannot be written, or the disk would be filled.
        """
        folder = self._places.folder
        if self.absence is not None or folder is None:
            return
        taken_at = datetime.now(timezone.utc)
        with writing("the safety copy"):
            folder.mkdir(parents=True, exist_ok=True)
            with temporary_file(folder, self._places.name) as path:
                copy(path, SpaceGuard(folder, self._settings.min_free_bytes, "the safety copy"))
                mark(path, taken_at, dialect.name)
                final = folder / f"{self._places.name}{_INFIX}{taken_at.strftime('%Y%m%dT%H%M%S.%fZ')}.sqlite"
                publish(path, final, like=self._places.database)
        self.path = final

    @contextmanager
    def discarded_on_error(self) -> Iterator[None]:
        """Remove it if the block raises; the block ends before the commit, whose outcome nobody may know."""
        try:
            yield
        except BaseException:
            if self.path is not None:
                self.path.unlink(missing_ok=True)
                self.path = None
            raise

    def prune(self) -> None:
        """Remove the oldest safety copies beyond those that are kept."""
        if self.path is not None:
            own = [path for path in self.path.parent.iterdir() if path.name.startswith(f"{self._places.name}{_INFIX}")]
            try:
                # The names sort as the times in them.
                for old in sorted(own, reverse=True)[self._settings.keep_replaced :]:
                    old.unlink(missing_ok=True)
                sync_folder(self.path.parent)
            except OSError as error:
                # The restore is done; whoever asked for it must not be told otherwise.
                logger.warning("old safety copies cannot be removed: %s", error)
