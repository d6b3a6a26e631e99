"""One restore on its way: what is compared, counted, kept and noted, whatever the engine."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from sqlalchemy import Connection, Table, func, inspect, select
from sqlalchemy.exc import IntegrityError

from vstorage_backup.columns import FileColumn, converted, file_columns
from vstorage_backup.export import quoted
from vstorage_backup.inspection import inspect_trail, inspect_upload
from vstorage_backup.report import RestoredTable, RestoreOptions
from vstorage_backup.safety import SafetyCopy
from vstorage_backup.settings import backup_settings, places_of
from vstorage_backup.trail import Ranges, missing_rows, unknown_rows
from vstorage_backup.upload import Upload
from vstorage_core import ConfigurationError, ImportRefused, InvalidInput, Storage, StorageError
from vstorage_core.audit import AUDIT_TABLE, Entry, write_entries
from vstorage_core.records import encode_snapshot

_KEYS_PER_QUERY = 300


class Replacement:
    """A file that SQLite can read, compared with the database that it is to replace.

    Attributes:
        tables: Of the models, without the audit trail; referenced ones first.
        left_alone: Names of the tables of the database that no model describes.
        inspection: What the comparison with the models has shown.
        audit_columns: Columns of the file's audit trail.
        audit_ranges: Ids of its rows that the live trail does not have.
        safety: The copy of what is replaced.

    Raises:
        ImportRefused: The file is of another application.
        ConfigurationError: The database has no tables.
    """

    def __init__(self, storage: Storage, upload: Upload, options: RestoreOptions) -> None:
        self.storage = storage
        self.upload = upload
        self.places = places_of(storage)
        self.safety = SafetyCopy(self.places, backup_settings(storage))
        self.tables = [table for table in storage.tables() if table.name != AUDIT_TABLE.name]
        if not self.tables:
            raise ConfigurationError(
                "the database has no tables yet; create them with bootstrap(…) or storage.create_tables(), then restore"
            )
        everything = [*self.tables, AUDIT_TABLE]
        with storage.snapshot() as live:
            names = set(inspect(live).get_table_names())
        self.left_alone = sorted(names - {table.name for table in everything})
        # The trails are compared beside the inspection: SQLite needs no interpreter for either.
        with ThreadPoolExecutor(1, "vstorage-backup-trail") as beside:
            comparison = beside.submit(unknown_rows, self.places.database, upload)
            self.inspection = inspect_upload(storage, upload, everything, self.left_alone, options.allow)
            unknown = comparison.result()
        self.audit_columns: list[FileColumn] = self.inspection.columns.get(AUDIT_TABLE.name, [])
        self.audit_ranges: Ranges = []
        inspect_trail(upload, self.inspection, unknown)
        if not self.inspection.invalid:
            with storage.snapshot() as live:
                self.audit_ranges = missing_rows(live, upload, self.audit_columns, unknown)
        self._reports: dict[str, RestoredTable] = {}
        self._changes_since: int | None = None

    def survey(self, live: Connection, *, is_attached: bool = False) -> None:
        """Count what is there and what would be lost.

        Args:
            live: Reads the database that is replaced.
            is_attached: Whether it has the file as schema `upload`.
        """
        count_lost = _rows_lost_beside if is_attached else _rows_lost
        for table in self.tables:
            before = live.execute(select(func.count()).select_from(table)).scalar_one()
            after = self.upload.count(table.name)
            lost = count_lost(live, self.upload, table) if before and after and len(table.primary_key) else before
            self._reports[table.name] = RestoredTable(rows_before=before, rows_after=after, rows_lost=lost)
        if self.upload.taken_at is not None:
            younger = select(func.count()).where(AUDIT_TABLE.c.timestamp > self.upload.taken_at)
            self._changes_since = live.execute(younger).scalar_one()

    def report(self) -> dict[str, Any]:
        """Its part of the report."""
        taken_at = self.upload.taken_at
        age = None if taken_at is None else (datetime.now(timezone.utc) - taken_at).total_seconds()
        return {
            "sha256": self.upload.sha256,
            "size_bytes": self.upload.size_bytes,
            "backup_taken_at": taken_at,
            "backup_age_seconds": age,
            "changes_since_backup": self._changes_since,
            "schema_differences": self.inspection.differences,
            "foreign_key_violations": self.inspection.violations,
            "invalid_values": self.inspection.invalid,
            "tables": self._reports,
            "tables_left_alone": self.left_alone,
            "audit_rows_added": sum(last - first + 1 for first, last in self.audit_ranges),
            "safety_copy": None if self.safety.path is None else self.safety.path.name,
            "no_safety_copy_because": self.safety.absence,
        }

    def write_audit_row(self, connection: Connection) -> None:
        """Note the restore in the audit trail."""
        report = self.report()
        before = {"rows": {name: table.rows_before for name, table in self._reports.items()}}
        after = {
            "rows": {name: table.rows_after for name, table in self._reports.items()},
            "rows_lost": {name: table.rows_lost for name, table in self._reports.items() if table.rows_lost},
            **{
                name: report[name]
                for name in ("sha256", "size_bytes", "backup_taken_at", "audit_rows_added", "safety_copy")
            },
        }
        entry = Entry("db", self.upload.sha256, "replace", encode_snapshot(before), encode_snapshot(after))
        write_entries(connection, [entry])


@contextmanager
def refusing(table: Table) -> Iterator[None]:
    """Raise `ImportRefused` where the database refuses rows of the file."""
    try:
        yield
    except (IntegrityError, InvalidInput) as error:
        # What a trigger of the application says comes as it is.
        reason = error if isinstance(error, StorageError) else error.orig
        raise ImportRefused(f"the database does not take the backup's records of {table.name}: {reason}") from error


def _rows_lost(live: Connection, upload: Upload, table: Table) -> int:
    """How many rows of the database have keys that the file does not have."""
    keys = file_columns(table.primary_key.columns)
    names = ", ".join(quoted(key.name) for key in keys)
    row = f"({', '.join('?' * len(keys))})"
    lost = 0
    result = live.execute(select(*table.primary_key.columns).execution_options(yield_per=_KEYS_PER_QUERY))
    for part in result.partitions():
        stored = list(converted(part, [key.dump for key in keys]))
        rows = ", ".join([row] * len(stored))
        sql = f"SELECT count(*) FROM {quoted(table.name)} WHERE ({names}) IN (VALUES {rows})"  # noqa: S608
        lost += len(stored) - upload.scalar(sql, [value for key in stored for value in key])
    return lost


def _rows_lost_beside(live: Connection, upload: Upload, table: Table) -> int:
    """The same where the file is attached to the database."""
    names = ", ".join(quoted(key.name) for key in table.primary_key.columns)
    name = quoted(table.name)
    sql = f"SELECT count(*) FROM main.{name} WHERE ({names}) NOT IN (SELECT {names} FROM upload.{name} NOT INDEXED)"  # noqa: S608
    return int(live.exec_driver_sql(sql).scalar_one())
