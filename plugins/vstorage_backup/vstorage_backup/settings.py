"""The settings of backups, and where their files stand."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from sqlalchemy import make_url

from vstorage_core import ConfigurationError, Storage

_CENTURY_SECONDS = 100 * 366 * 86400


class BackupSettings(BaseModel):
    """The `backup` section of a storage's configuration.

    Attributes:
        folder: Where backups are kept; by default `<database>-backups` beside an SQLite file. For a database on a
            server or in memory there is no default, and without one no safety copies.
        every_seconds: How often a backup is taken by itself; None: not after so many seconds.
        cron: When backups are taken by themselves instead, in the machine's local time: minute, hour, day of the
            month, month, day of the week; `"30 2 * * *"` is half past two each night.
        keep: How many of these are kept.
        max_age_seconds: The health check `backup` fails when the last verified backup is older; default: when two
            backups in a row were not taken.
        keep_replaced: How many safety copies of replaced databases are kept; 0: none are made.
        min_free_bytes: Backups and restores leave at least so much of the disk free.
        max_check_seconds: Longest time for checking a file that is to be restored.
    """

    model_config = ConfigDict(extra="forbid")

    folder: Path | None = None
    every_seconds: float | None = Field(default=None, gt=0, le=_CENTURY_SECONDS)
    cron: str | None = None
    keep: int = Field(default=7, ge=1)
    max_age_seconds: float | None = Field(default=None, gt=0, le=_CENTURY_SECONDS)
    keep_replaced: int = Field(default=3, ge=0)
    min_free_bytes: int = Field(default=16 * 1024 * 1024, ge=0)
    max_check_seconds: float = Field(default=600.0, gt=0)

    @property
    def is_scheduled(self) -> bool:
        """Whether backups are taken by themselves."""
        return self.every_seconds is not None or self.cron is not None

    @field_validator("cron")
    @classmethod
    def _is_cron(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            # The library takes seconds in front, which cron has not.
            if len(value.split()) != 5:
                raise CronSimError("there are not five of them")
            next(CronSim(value, datetime(2000, 1, 1)))  # noqa: DTZ001 (of the clock on the wall)
        except CronSimError as error:
            raise ValueError(
                f"{value!r} is not minute, hour, day of the month, month and day of the week, as in '30 2 * * *' for"
                f" half past two each night: {error}"
            ) from None
        except StopIteration:
            raise ValueError(f"{value!r} names a day that no year has") from None
        return value

    @model_validator(mode="after")
    def _is_one_schedule(self) -> BackupSettings:
        if self.every_seconds is not None and self.cron is not None:
            raise ValueError("every_seconds and cron are two schedules; set one of them")
        return self


@dataclass(frozen=True)
class Places:
    """Where the files of one database stand.

    Attributes:
        database: The SQLite file, or None for a database on a server or in memory.
        work: Folder for temporary files.
        name: How the names of all files begin.
        folder: Where backups and safety copies are kept, or None.
    """

    database: Path | None
    work: Path
    name: str
    folder: Path | None


def backup_settings(storage: Storage) -> BackupSettings:
    """The checked settings.

    Raises:
        ConfigurationError: A setting is unknown or not allowed.
    """
    return storage.settings("backup", BackupSettings)


def places_of(storage: Storage) -> Places:
    """Where the files of this storage stand; does not open the database."""
    folder = backup_settings(storage).folder
    url = make_url(storage.url)
    database = _sqlite_file(url.database) if url.get_backend_name() == "sqlite" else None
    if database is None:
        name = url.database if url.get_backend_name() != "sqlite" else None
        return Places(None, Path(tempfile.gettempdir()), name or "memory", folder and folder.absolute())
    return Places(
        database,
        database.parent,
        database.name,
        (folder or database.with_name(f"{database.name}-backups")).absolute(),
    )


def require_usual_locks(storage: Storage) -> None:
    """Refuse a database file that a virtual file system of its own opens: beside its locks ours protect nothing.

    Raises:
        ConfigurationError: The URL names one.
    """
    url = make_url(storage.url)
    if url.get_backend_name() == "sqlite" and ("vfs" in url.query or "vfs=" in (url.database or "").partition("?")[2]):
        raise ConfigurationError(
            "the URL of the database names a vfs, whose locks a backup or restore beside it does not see, so that it"
            " could damage the file. Take vfs= out of the URL; or copy the file yourself while no process has it open"
        )


def _sqlite_file(database: str | None) -> Path | None:
    if not database or database == ":memory:" or "mode=memory" in database:
        return None
    if database.startswith("file:"):
        return Path(unquote(urlsplit(database).path)).absolute()
    return Path(database)
