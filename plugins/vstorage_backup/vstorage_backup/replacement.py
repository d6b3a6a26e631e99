"""One restore on its way: what is compared, counted, kept and noted, whatever the engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, NamedTuple

from sqlalchemy import Connection, Table, func, inspect, select
from sqlalchemy.exc import IntegrityError

from vstorage_backup.columns import FileColumn, converted, file_columns
from vstorage_backup.export import quoted
from vstorage_backup.inspection import Inspection, inspect_upload
from vstorage_backup.live import LiveFile
from vstorage_backup.ranges import Ranges, count
from vstorage_backup.report import RestoredTable, RestoreOptions
from vstorage_backup.safety import SafetyCopy
from vstorage_backup.trail import EVENT, is_comparable, missing_rows
from vstorage_backup.upload import Upload
from vstorage_core import ImportRefused, InvalidInput, Storage, StorageError
from vstorage_core.audit import AUDIT_TABLE, Entry, write_entries
from vstorage_core.records import encode_snapshot

_KEYS_PER_QUERY = 300


class Part(NamedTuple):
    """Some rows of a table that is replaced only where it differs.

    Attributes:
        new: Rows of the file that the table does not have just so.
        has_lost: Whether the table has keys that the file does not have.
    """

    new: Ranges
    has_lost: bool


class Replacement:
    """A file that SQLite can read, compared with the database that it is to replace.

    Args:
        storage: Of the database.
        upload: The file.
        options: Of the restore.
        tables: Of the models, without the audit trail; referenced ones first.
        safety: The copy of what is replaced.
        live: The database, where it is an SQLite file.

    Attributes:
        left_alone: Names of the tables of the database that no model describes.
        inspection: What the comparison with the models has shown.
        audit_columns: Columns of the file's audit trail.
        audit_ranges: Ids of its rows that the live trail does not have.

    Raises:
        ImportRefused: The file is of another application.
    """

    def __init__(
        self,
        storage: Storage,
        upload: Upload,
        options: RestoreOptions,
        tables: Sequence[Table],
        safety: SafetyCopy,
        live: LiveFile | None,
    ) -> None:
        self.storage = storage
        self.upload = upload
        self.tables = tables
        self.safety = safety
        self._live = live
        # The trail first: whether the other tables are sound is found out meanwhile.
        everything = [AUDIT_TABLE, *tables]
        with storage.snapshot() as connection:
            names = set(inspect(connection).get_table_names())
        self.left_alone = sorted(names - {table.name for table in everything})
        if live is not None:
            live.attach(upload)
        self.inspection = inspect_upload(storage, upload, everything, self.left_alone, options.allow, self._new_rows)
        self.audit_columns: list[FileColumn] = self.inspection.columns.get(AUDIT_TABLE.name, [])
        self.audit_ranges: Ranges = []
        if not self.inspection.invalid:
            with storage.snapshot() as connection:
                unknown = self.inspection.new.get(AUDIT_TABLE.name)
                self.audit_ranges = missing_rows(connection, upload, self.audit_columns, unknown)
        self._reports: dict[str, RestoredTable] = {}
        self._changes_since: int | None = None

    def _new_rows(self, inspection: Inspection, table: Table) -> Ranges | None:
        """Which rows of the file the database does not have; None: all are taken to be new."""
        if self._live is None:
            return None
        if table is AUDIT_TABLE:
            return self._live.new_rows(table, ("id", *EVENT)) if is_comparable(self.upload) else None
        if inspection.fills[table.name] or not self._live.may_keep_rows(table):
            return None
        return self._live.new_rows(table, [column.name for column in inspection.columns[table.name]])

    def survey(self, connection: Connection) -> None:
        """Count what is there and what would be lost.

        Args:
            connection: Reads the database that is replaced.
        """
        for table in self.tables:
            before = connection.execute(select(func.count()).select_from(table)).scalar_one()
            after = self.upload.count(table.name)
            lost = before
            if before and after and len(table.primary_key):
                live = self._live
                lost = _rows_lost(connection, self.upload, table) if live is None else live.lost_rows(table)
            self._reports[table.name] = RestoredTable(rows_before=before, rows_after=after, rows_lost=lost)
        if self.upload.taken_at is not None:
            younger = select(func.count()).where(AUDIT_TABLE.c.timestamp > self.upload.taken_at)
            self._changes_since = connection.execute(younger).scalar_one()

    def survey_again(self, connection: Connection) -> bool:
        """Under the write lock of a live file: do it once more if it was not done or somebody has written since.

        Rows that are new only now equal what was stored when the file was looked through: no value of them is wrong.

        Returns:
            Whether it was done.
        """
        assert self._live is not None  # noqa: S101 (the caller has one)
        if self._reports and not self._live.was_written():
            return False
        for table in self.tables:
            if table.name in self.inspection.new:
                self.inspection.new[table.name] = self._new_rows(self.inspection, table)
        self.survey(connection)
        return True

    def part_of(self, table: Table) -> Part | None:
        """Which rows of the table are replaced; None: all."""
        new = self.inspection.new.get(table.name)
        report = self._reports[table.name]
        if new is None or count(new) == report.rows_after:
            return None
        return Part(new, report.rows_lost > 0)

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
            "audit_rows_added": count(self.audit_ranges),
            "safety_copy": None if self.safety.path is None else self.safety.path.name,
            "no_safety_copy_because": self.safety.absence,
        }

    def finish(self, connection: Connection) -> None:
        """Note the restore in the audit trail and let the safety copy stay; called just before the commit.

        Raises:
            ImportRefused: The file was changed meanwhile.
        """
        self.upload.require_unchanged()
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
        entry = Entry("db", report["sha256"], "replace", encode_snapshot(before), encode_snapshot(after))
        write_entries(connection, [entry])
        self.safety.keep()


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
