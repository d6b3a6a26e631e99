"""What vstorage_backup contributes, for pluggy."""

from __future__ import annotations

from collections.abc import Iterator

from vstorage_backup.export import write_backup
from vstorage_backup.report import RestoreOptions, RestoreReport
from vstorage_backup.restore import restore
from vstorage_backup.schedule import check_last_backup, start, stop
from vstorage_backup.settings import backup_settings
from vstorage_core import Exporter, HealthCheck, Importer, Storage, hookimpl


@hookimpl
def vstorage_startup(storage: Storage) -> None:
    start(storage)


@hookimpl
def vstorage_shutdown(storage: Storage) -> None:
    stop(storage)


@hookimpl
def vstorage_register_exporters() -> Iterator[Exporter]:
    yield Exporter(
        name="backup",
        filename="backup.sqlite",
        media_type="application/vnd.sqlite3",
        write=write_backup,
        summary="Back the whole database up to one SQLite file",
        action="backup",
    )


@hookimpl
def vstorage_register_importers() -> Iterator[Importer]:
    yield Importer(
        name="restore",
        path="restore",
        read=restore,
        options=RestoreOptions,
        report=RestoreReport,
        summary="Replace all records by those of a backup",
        action="restore",
    )


@hookimpl
def vstorage_register_health_checks(storage: Storage) -> Iterator[HealthCheck]:
    if backup_settings(storage).is_scheduled:
        yield HealthCheck(name="backup", check=check_last_backup)
