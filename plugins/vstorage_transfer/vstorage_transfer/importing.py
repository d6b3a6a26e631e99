"""Reads files into the tables: every row through the accessor's write path, all of it in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any, BinaryIO

from sqlalchemy import select
from sqlmodel import Session

from vstorage_core import (
    ConstraintViolation,
    Importer,
    ImportRefused,
    InvalidInput,
    InvalidRecord,
    RecordDeleted,
    RecordLimitReached,
    Storage,
    acting_as,
    report_progress,
)
from vstorage_core.audit import stored_values
from vstorage_core.records import SOFT_DELETE_FIELD, Values
from vstorage_transfer.formats import FileFormat
from vstorage_transfer.plan import CHUNK_ROWS, ImportOptions, ImportPlan, TableFile
from vstorage_transfer.report import ImportReport, TableFindings, counted, refuse_too_many
from vstorage_transfer.table import BadRow, Finding, Row
from vstorage_transfer.upload import Upload, open_upload

# What the model, a hook or the database may say about a row; anything else is a failure and ends the import.
REFUSALS = (ValueError, PermissionError, ConstraintViolation, RecordDeleted, RecordLimitReached)


def importer_of(file_format: FileFormat, *, path: str, options: type[ImportOptions] = ImportOptions) -> Importer:
    """The importer of a file format."""

    def read(storage: Storage, stream: BinaryIO, chosen: ImportOptions) -> ImportReport:
        return import_files(storage, stream, chosen, file_format)

    return Importer(
        name=file_format.name,
        path=path,
        read=read,
        options=options,
        report=ImportReport,
        summary=f"Import a zip of {file_format.title} files, or such a file",
    )


def import_files(storage: Storage, stream: BinaryIO, options: ImportOptions, file_format: FileFormat) -> ImportReport:
    """Import a zip of files of this format, or such a file.

    Raises:
        InvalidInput: The options cannot work together.
        ImportRefused: The file cannot be imported, or has bad rows; nothing was changed.
        StorageUnavailable: The database cannot be written now; nothing was changed.
    """
    if options.mode == "replace" and options.on_error == "skip":
        raise InvalidInput("replace deletes what is not in the file, so it cannot skip bad rows; use on_error=fail")
    with open_upload(storage, stream, file_format, edited=options.edited) as upload:
        _refuse_replacing_by_a_part(upload, options)
        report = ImportReport(dry_run=options.dry_run, batch=None if options.dry_run else uuid.uuid4().hex)
        files = ImportPlan(storage, upload, options, file_format, report).files()
        with suppress(DryRun), storage.transaction() as session, acting_as(batch=report.batch):
            _Import(storage, session, options).run(files, report)
            if options.dry_run:
                raise DryRun
        return report


class DryRun(Exception):
    """Rolls the transaction of a dry run back."""


def _refuse_replacing_by_a_part(upload: Upload, options: ImportOptions) -> None:
    manifest = upload.manifest
    if options.mode == "replace" and manifest is not None and manifest.where:
        raise ImportRefused(
            f"the file has only the records where {', '.join(manifest.where)}; replace would delete all others."
            " Import it with mode=upsert"
        )


class _Import:
    """One import, inside its transaction."""

    def __init__(self, storage: Storage, session: Session, options: ImportOptions) -> None:
        self._storage = storage
        self._session = session
        self._options = options
        self._findings: dict[TableFile, TableFindings] = {}
        # Refused by a constraint; may be allowed when the other rows are there, e.g. a child before its parent.
        self._waiting: list[tuple[TableFile, Row, ConstraintViolation]] = []

    def run(self, files: Sequence[TableFile], report: ImportReport) -> None:
        """Import the files and fill the report.

        Raises:
            ImportRefused: There are bad rows and they must not be skipped, or there are very many.
        """
        keys = {}
        for file in files:
            self._findings[file] = TableFindings(file.file.name, file.table, file.reader)
            keys[file] = self._read(file)
        if self._options.mode == "replace":
            for file in reversed(files):
                self._delete_others(file, keys[file])
        self._retry()
        for file, findings in self._findings.items():
            self._storage.advance_keys(file.table.record.mapper.local_table)
            findings.finish()
            report.tables.append(findings.report)
            report.problems += findings.problems
        if report.problems and self._options.on_error == "fail" and not self._options.dry_run:
            bad = sum(table.bad for table in report.tables)
            raise ImportRefused(
                f"nothing was imported because of {counted(bad, 'bad row')}, the first: {report.problems[0]}",
                [problem.model_dump() for problem in report.problems],
            )

    def _read(self, file: TableFile) -> set[Any]:
        """Import the rows of the file; returns the keys of their records if somebody needs them."""
        keys: set[Any] = set()
        done = 0
        report_progress(file.table.name, 0, file.file.rows)
        for good, bad in file.chunks():
            for row in bad:
                self._findings[file].bad(row)
            written = self._write(file, good)
            if self._options.mode == "replace":
                keys.update(written)
            done += len(good) + len(bad)
            report_progress(file.table.name, done, file.file.rows)
        return keys

    def _write(self, file: TableFile, rows: Sequence[Row]) -> list[Any]:
        """Insert or update the rows; returns the keys of their records."""
        record = file.table.record
        keys = [row.values[record.key] for row in rows if record.key in row.values]
        stored = dict(stored_values(self._session.connection(), record, keys)) if keys else {}
        new, keyless = [], []
        for row in rows:
            if record.key not in row.values:
                keyless.append(row)
            elif row.values[record.key] not in stored:
                new.append(row)
            elif self._options.mode == "insert":
                taken = Finding(record.key_column.name, "is taken by another record")
                self._findings[file].bad(BadRow(row.line, row.source, row.size, [taken]))
            else:
                self._update(file, row, stored[row.values[record.key]])
        inserted = self._insert(file, new)
        if keyless:
            # The keys that the database makes for these must not be among those given before.
            self._storage.advance_keys(record.mapper.local_table)
            inserted += self._insert(file, keyless)
        return [*stored, *inserted]

    def _insert(self, file: TableFile, rows: Sequence[Row]) -> list[Any]:
        if not rows:
            return []
        table = file.table
        try:
            instances = table.accessor.insert_many([table.make(row.values) for row in rows])
        except REFUSALS as error:
            if len(rows) > 1:
                half = len(rows) // 2
                return [*self._insert(file, rows[:half]), *self._insert(file, rows[half:])]
            self._refused(file, rows[0], error)
            return []
        self._findings[file].report.create += len(rows)
        return [getattr(instance, table.record.key) for instance in instances]

    def _update(self, file: TableFile, row: Row, before: Values) -> None:
        table = file.table
        record, accessor, key = table.record, table.accessor, before[table.record.key]
        after = {**before, **row.values}
        was_deleted, is_deleted = (values.get(SOFT_DELETE_FIELD) is not None for values in (before, after))
        moves = was_deleted != is_deleted
        try:
            changed = table.changed([name for name in row.values if name != SOFT_DELETE_FIELD], before, after)
            if changed:
                after.update(record.validate(accessor.component, after, changed))
                changed = table.changed(changed, before, after)
            if not changed and not moves:
                self._findings[file].report.unchanged += 1
                return
            if was_deleted and is_deleted:
                raise RecordDeleted("the record is deleted; empty deleted_at to restore it")
            # Two operations or none; a savepoint costs more than an update.
            with self._storage.transaction() if moves else nullcontext():
                if was_deleted:
                    accessor.restore(key)
                if changed:
                    live = {SOFT_DELETE_FIELD: None} if record.has_soft_delete else {}
                    accessor.save(table.make({**after, **live}))
                if is_deleted:
                    accessor.delete(key)
        except REFUSALS as error:
            self._refused(file, row, error)
            return
        self._findings[file].updated(row, before, after, [*changed, SOFT_DELETE_FIELD] if moves else changed)

    def _delete_others(self, file: TableFile, keys: set[Any]) -> None:
        """Delete the live records whose key is not among `keys`."""
        record = file.table.record
        statement = select(record.key_column)
        if record.has_soft_delete:
            statement = statement.where(record.columns[SOFT_DELETE_FIELD].is_(None))
        others = [key for key in self._session.connection().execute(statement).scalars() if key not in keys]
        for start in range(0, len(others), CHUNK_ROWS):
            self._delete(file, others[start : start + CHUNK_ROWS])

    def _delete(self, file: TableFile, keys: Sequence[Any]) -> None:
        try:
            self._findings[file].report.delete += file.table.accessor.delete_many(keys)
        except REFUSALS as error:
            if len(keys) == 1:
                self._findings[file].not_deleted(keys[0], str(error))
                return
            half = len(keys) // 2
            self._delete(file, keys[:half])
            self._delete(file, keys[half:])

    def _retry(self) -> None:
        """Write the rows that waited for others, until none are left or no more of them can be written."""
        tried = -1
        while self._waiting and len(self._waiting) != tried:
            tried = len(self._waiting)
            waiting, self._waiting = self._waiting, []
            # Backwards, then forwards: a chain of rows that refer to the next one is done in one go.
            for file, row, _ in reversed(waiting):
                self._write(file, [row])
        for file, row, error in self._waiting:
            column = next((field for field in error.fields if field in file.table.columns), None)
            reason = str(error).removeprefix(f"{column} ")
            self._findings[file].bad(BadRow(row.line, row.source, row.size, [Finding(column, reason)]))

    def _refused(self, file: TableFile, row: Row, error: Exception) -> None:
        if isinstance(error, ConstraintViolation):
            self._waiting.append((file, row, error))
            refuse_too_many(len(self._waiting))
        elif isinstance(error, InvalidRecord):
            self._findings[file].bad(
                BadRow(row.line, row.source, row.size, [file.table.finding(problem) for problem in error.errors])
            )
        else:
            self._findings[file].bad(BadRow(row.line, row.source, row.size, [Finding(None, str(error))]))
