"""Backups that are taken by themselves, each one read back before it counts."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from cronsim import CronSim
from pydantic import BaseModel, ValidationError

from vstorage_backup.export import MARK_TABLE, write_backup_file, writing
from vstorage_backup.files import claimed, lock_path, publish, remove_leftovers, sync_folder, temporary_file
from vstorage_backup.helpers import Helpers
from vstorage_backup.inspection import inspect_upload
from vstorage_backup.settings import BackupSettings, Places, backup_settings, places_of, require_usual_locks
from vstorage_backup.upload import Upload, opened
from vstorage_core import ConfigurationError, ImportRefused, Storage, StorageError, StorageUnavailable, __version__

logger = logging.getLogger("vstorage.backup")

# A storage starts before its tables are made.
_FIRST_BACKUP_AFTER_SECONDS = 60.0
_RETRY_AFTER_SECONDS = 300.0
# A controller without a battery learns the time only some while after it was started.
_LOOK_AT_CLOCK_EVERY_SECONDS = 300.0
_END_WITHIN_SECONDS = 30.0
_STAMP = "%Y%m%dT%H%M%S.%fZ"
_EXTENSION = "backup.schedule"


class Manifest(BaseModel):
    """What stands beside each backup, in `<backup>.json`.

    Attributes:
        file: Name of the backup.
        taken_at: Moment of the snapshot, in UTC.
        sha256: Of the file, in hexadecimal.
        size_bytes: Of the file.
        rows: Number of rows by table.
        version: Of vstorage.
        problem: Why a restore would refuse it, or None: SQLite has read all of it and every value fits the models.
    """

    file: str
    taken_at: datetime
    sha256: str
    size_bytes: int
    rows: dict[str, int]
    version: str
    problem: str | None


def take_backup(storage: Storage) -> Path:
    """Write a backup into the backup folder, read it back, and remove the oldest beyond those that are kept.

    Returns:
        The file. It and its manifest appear when they are complete.

    Raises:
        ConfigurationError: There is no folder to put it in.
        StorageUnavailable: The disk would be filled, or the backup cannot be written or read back.
    """
    places, settings = places_of(storage), backup_settings(storage)
    folder = _folder_of(places)
    taken_at = datetime.now(timezone.utc)
    final = folder / f"{places.name}-{taken_at.strftime(_STAMP)}.sqlite"
    with writing("the backup"):
        folder.mkdir(parents=True, exist_ok=True)
        with temporary_file(folder, places.name) as path, temporary_file(folder, places.name) as manifest_path:
            write_backup_file(storage, path)
            manifest = _verified(storage, path, final.name, taken_at, settings.max_check_seconds)
            manifest_path.write_text(manifest.model_dump_json(indent=2) + "\n")
            # The manifest first: a backup that stands there has one.
            publish(manifest_path, _manifest_of(final), like=places.database)
            publish(path, final, like=places.database)
        for old in sorted(_backups(places), reverse=True)[settings.keep :]:
            old.unlink(missing_ok=True)
            _manifest_of(old).unlink(missing_ok=True)
        sync_folder(folder)
    return final


def last_backup(storage: Storage) -> Manifest | None:
    """The manifest of the youngest backup in the folder that is still whole as far as its size tells."""
    for path in sorted(_backups(places_of(storage)), reverse=True):
        try:
            manifest = Manifest.model_validate_json(_manifest_of(path).read_text())
            if path.stat().st_size == manifest.size_bytes:
                return manifest
        except (OSError, ValidationError):
            continue
    return None


def next_due(settings: BackupSettings, after: datetime) -> datetime:
    """When the first backup after that moment is due, by the interval or by the clock on the wall.

    A time that the clock skips in spring comes when it would have come, and one that it passes twice in autumn counts
    once: a backup each night is one backup that night.

    Args:
        settings: With a schedule.
        after: With a time zone.
    """
    if settings.cron is None:
        return after + timedelta(seconds=settings.every_seconds or 0.0)
    # Without a zone these are times on the wall; `timestamp` asks the system which moment each is.
    walls = CronSim(settings.cron, after.astimezone().replace(tzinfo=None))
    moments = (datetime.fromtimestamp(wall.timestamp(), timezone.utc) for wall in walls)
    return next(moment for moment in moments if moment > after)


class Schedule:
    """Takes a backup whenever one is due since the last one; of several processes on one database one does.

    Args:
        storage: What to back up; its settings have a schedule.

    Attributes:
        started_at: When this schedule began.
        problem: Why the last try failed, or None.

    Raises:
        ConfigurationError: There is no folder to put backups in, or the URL of the database names a vfs.
    """

    def __init__(self, storage: Storage) -> None:
        require_usual_locks(storage)
        _folder_of(places_of(storage))
        self._storage = storage
        self._settings = backup_settings(storage)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vstorage-backup", daemon=True)
        self.started_at = datetime.now(timezone.utc)
        self.problem: str | None = None

    def begin(self) -> None:
        """Let it run in a thread of its own."""
        self._thread.start()

    def end(self) -> None:
        """Stop it; a backup that is being written is finished first."""
        self._ended.set()
        self._thread.join(_END_WITHIN_SECONDS)

    def seconds_until_due(self, now: datetime) -> float:
        """How long until the next backup; 0 when it is due."""
        last = last_backup(self._storage)
        if last is None:
            return 0.0
        # Where the clock was wrong, the last backup may seem to be from the future.
        due = next_due(self._settings, min(last.taken_at, now))
        return max((due - now).total_seconds(), 0.0)

    def take_if_due(self, now: datetime) -> bool:
        """Take a backup unless none is due or another process is at it; tells whether it did."""
        places = places_of(self._storage)
        folder = _folder_of(places)
        with writing("the backup"):
            folder.mkdir(parents=True, exist_ok=True)
        with claimed(lock_path(folder, places.name, "schedule")) as is_ours:
            if not is_ours or self.seconds_until_due(now) > 0:
                return False
            path = take_backup(self._storage)
        logger.info("backup %s taken", path.name)
        return True

    def _run(self) -> None:
        interval_seconds = self._settings.every_seconds or _RETRY_AFTER_SECONDS
        retry_seconds = min(interval_seconds, _RETRY_AFTER_SECONDS)
        wait_seconds = min(interval_seconds, _FIRST_BACKUP_AFTER_SECONDS)
        while not self._ended.wait(wait_seconds):
            now = datetime.now(timezone.utc)
            try:
                self.take_if_due(now)
                self.problem = None
                until_due_seconds = min(self.seconds_until_due(now), _LOOK_AT_CLOCK_EVERY_SECONDS)
                wait_seconds = max(until_due_seconds, min(retry_seconds, 1.0))
            except StorageError as error:
                self.problem, wait_seconds = str(error), retry_seconds
                logger.warning("no backup was taken: %s", error)
            # Whatever it is, the next try may succeed, and without a thread there is none.
            except Exception as error:
                self.problem, wait_seconds = f"it failed with {type(error).__name__}; see the log", retry_seconds
                logger.exception("no backup was taken")


def start(storage: Storage) -> None:
    """Remove what killed processes have left, and begin the schedule if there is one.

    Raises:
        ConfigurationError: A setting is not allowed, or backups are scheduled and have no folder.
    """
    places = places_of(storage)
    for folder in {places.work, places.folder or places.work}:
        for path in remove_leftovers(folder, places.name):
            logger.info("removed %s, left by a process that was killed", path.name)
    if backup_settings(storage).is_scheduled:
        schedule = storage.extensions[_EXTENSION] = Schedule(storage)
        schedule.begin()


def stop(storage: Storage) -> None:
    """End the schedule if there is one."""
    schedule: Schedule | None = storage.extensions.pop(_EXTENSION, None)
    if schedule is not None:
        schedule.end()


def check_last_backup(storage: Storage) -> Mapping[str, Any]:
    """The age of the last verified backup, for the health check `backup`.

    Raises:
        StorageUnavailable: It is too old, a restore would refuse it, or the last try failed.
    """
    settings = backup_settings(storage)
    schedule: Schedule | None = storage.extensions.get(_EXTENSION)
    now = datetime.now(timezone.utc)
    last = last_backup(storage)
    since = last.taken_at if last is not None else schedule.started_at if schedule is not None else now
    if settings.max_age_seconds is None:
        overdue_at = next_due(settings, next_due(settings, since))
    else:
        overdue_at = since + timedelta(seconds=settings.max_age_seconds)
    if now > overdue_at:
        what = "the last verified backup" if last is not None else "this application has no backup and"
        why = "" if schedule is None or schedule.problem is None else f"; the last try failed: {schedule.problem}"
        allowed_seconds = (overdue_at - since).total_seconds()
        raise StorageUnavailable(f"{what} is {_duration(now - since)} old, more than {allowed_seconds:g} s{why}")
    if last is not None and last.problem is not None:
        raise StorageUnavailable(f"the last backup could not be restored: {last.problem}")
    if schedule is not None and schedule.problem is not None:
        raise StorageUnavailable(f"the last try to take a backup failed: {schedule.problem}")
    if last is None:
        return {"last_backup": None}
    return {
        "last_backup": last.file,
        "taken_at": last.taken_at.isoformat(),
        "age_seconds": round((now - last.taken_at).total_seconds(), 1),
    }


def _verified(storage: Storage, path: Path, name: str, taken_at: datetime, max_seconds: float) -> Manifest:
    """The manifest of a backup that was read back from the disk."""
    try:
        with Helpers() as helpers, opened(path, helpers, integrity_check=False, max_seconds=max_seconds) as upload:
            return Manifest(
                file=name,
                taken_at=taken_at,
                sha256=upload.sha256,
                size_bytes=upload.size_bytes,
                rows={table: upload.count(table) for table in upload.tables if table != MARK_TABLE},
                version=__version__,
                problem=_refusal(storage, upload),
            )
    except ImportRefused as error:
        raise StorageUnavailable(f"the backup cannot be read back: {error}") from error


def _refusal(storage: Storage, upload: Upload) -> str | None:
    """Why a restore would refuse the file."""
    try:
        return inspect_upload(storage, upload, storage.tables(), upload.tables).refusal
    except ImportRefused as error:
        return str(error)


def _folder_of(places: Places) -> Path:
    if places.folder is None:
        raise ConfigurationError(
            "backups of this database need a folder: name one in the setting backup.folder, or in the variable"
            " VSTORAGE_BACKUP__FOLDER"
        )
    return places.folder


def _backups(places: Places) -> Iterator[Path]:
    """The backups in the folder; their names sort as the times at which they were taken."""
    is_ours = re.compile(re.escape(places.name) + r"-\d{8}T\d{6}\.\d{6}Z\.sqlite").fullmatch
    if places.folder is not None and places.folder.is_dir():
        yield from (path for path in places.folder.iterdir() if is_ours(path.name))


def _manifest_of(backup: Path) -> Path:
    return backup.with_name(f"{backup.name}.json")


def _duration(age: timedelta) -> str:
    return str(timedelta(seconds=round(age.total_seconds())))
