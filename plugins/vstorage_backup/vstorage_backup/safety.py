"""Safety copies: what a restore replaced, kept as a backup of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from sqlalchemy import Dialect

from vstorage_backup.export import SpaceGuard, mark, writing
from vstorage_backup.files import publish, sync_folder, temporary_file
from vstorage_backup.helpers import Helpers
from vstorage_backup.settings import BackupSettings, Places
from vstorage_core import Progress, report_progress
from vstorage_core.contributions import progress_to

logger = logging.getLogger("vstorage.backup")

_INFIX = "-before-restore-"
_SECONDS_BETWEEN_REPORTS = 0.2


class _GivenUp(Exception):
    """Nobody needs the copy any more."""


class SafetyCopy:
    """The safety copy of one restore; as a context manager, removes it at the end unless it is to be kept.

    Attributes:
        absence: Why none is made, or None.
        path: Where it stands, once it is made.
    """

    def __init__(self, places: Places, settings: BackupSettings) -> None:
        self._places = places
        self._settings = settings
        self._is_kept = False
        self.path: Path | None = None
        self.absence: str | None = None
        if settings.keep_replaced == 0:
            self.absence = "the setting backup.keep_replaced is 0"
        elif places.folder is None:
            self.absence = "there is no folder for it; name one in the setting backup.folder"

    def __enter__(self) -> SafetyCopy:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._is_kept:
            self._discard()

    def keep(self) -> None:
        """Let it stay; called just before the commit, whose outcome nobody may know."""
        self._is_kept = True

    def _discard(self) -> None:
        if self.path is not None:
            self.path.unlink(missing_ok=True)
            self.path = None

    def take(self, copy: Callable[[Path, SpaceGuard], None], dialect: Dialect) -> None:
        """Make it, unless none is wanted, in place of the one that was made before.

        Args:
            copy: Writes the database to a file.
            dialect: Of the database.

        Raises:
            StorageUnavailable: It cannot be written, or the disk would be filled.
        """
        folder = self._places.folder
        if self.absence is not None or folder is None:
            return
        self._discard()
        self._is_kept = False
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
    def taken_by(self, helpers: Helpers, copy: Callable[[Path, SpaceGuard], None], dialect: Dialect) -> Iterator[None]:
        """Let the helpers `take` it while the block runs; waits for it at the end of the block."""
        latest: list[Progress] = []

        def work(is_over: threading.Event) -> None:
            def note(progress: Progress) -> None:
                if is_over.is_set():
                    raise _GivenUp
                latest[:] = [progress]

            with progress_to(note):
                self.take(copy, dialect)

        with helpers.doing(work) as taking:
            yield
            while not wait([taking], timeout=_SECONDS_BETWEEN_REPORTS).done:
                for progress in latest:
                    report_progress(progress.label, progress.done, progress.total)
            taking.result()

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
