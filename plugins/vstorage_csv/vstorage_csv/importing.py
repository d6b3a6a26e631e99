"""Reads CSV files into the tables: every row through the accessor's write path, all of it in one transaction."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import select
from sqlmodel import Session

from vstorage_core import (
    ConstraintViolation,
    ImportRefused,
    InvalidInput,
    InvalidRecord,
    RecordDeleted,
    RecordLimitReached,
    Storage,
    acting_as,
    report_progress,
)
from vstorage_core.audit import AUDIT_TABLE, stored_values
from vstorage_core.records import SOFT_DELETE_FIELD, Values
from vstorage_csv.archive import Dialect
from vstorage_csv.report import ImportReport, TableFindings, counted, refuse_too_many
from vstorage_csv.table import CHUNK_ROWS, BadRow, Finding, ImportTable, Row, TableFile, read_header
from vstorage_csv.upload import CsvFile, Upload, open_upload

# What the model, a hook or the database may say about a row; anything else is a failure and ends the import.
REFUSALS = (ValueError, PermissionError, ConstraintViolation, RecordDeleted, RecordLimitReached)


class CsvImportOptions(BaseModel):
    """Options of the CSV import."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["insert", "upsert", "replace"] = Field(
        default="upsert",
        description="insert: every row is new; upsert: rows with a known key are updated;"
        " replace: and records that are not in the file are deleted",
    )
    dry_run: bool = Field(default=False, description="Only report what would happen")
    on_error: Literal["fail", "skip"] = Field(
        default="fail",
        description="fail: with a bad row nothing is stored; skip: the good rows are stored",
    )
    tables: list[str] | None = Field(
        default=None, description="Tables of the zip to import, or the table of a CSV file; default: all, or as named"
    )
    dialect: Dialect | None = Field(
        default=None, description="Of the files; default: what the manifest says, else spreadsheet"
    )
    edited: bool = Field(default=False, description="The files were edited: do not compare them with the manifest")


def import_csv(storage: Storage, stream: BinaryIO, options: CsvImportOptions) -> ImportReport:
    """Import a zip of CSV files, or a CSV file.

    Raises:
        InvalidInput: The options cannot work together.
        ImportRefused: The file cannot be imported, or has bad rows; nothing was changed.
        StorageUnavailable: The database cannot be written now; nothing was changed.
    """
    if options.mode == "replace" and options.on_error == "skip":
        raise InvalidInput("replace deletes what is not in the file, so it cannot skip bad rows; use on_error=fail")
    with open_upload(storage, stream, edited=options.edited) as upload:
        report = ImportReport(dry_run=options.dry_run, batch=None if options.dry_run else uuid.uuid4().hex)
        files = _planned(storage, upload, options, report)
        with suppress(DryRun), storage.transaction() as session, acting_as(batch=report.batch):
            _Import(storage, session, options).run(files, report)
            if options.dry_run:
                raise DryRun
        return report


class DryRun(Exception):
    """Rolls the transaction of a dry run back."""


def _planned(storage: Storage, upload: Upload, options: CsvImportOptions, report: ImportReport) -> list[TableFile]:
    """The files to import, referenced tables first; notes in the report which are skipped."""
    order = [table.name for table in storage.tables()]
    tables = _importable(storage)
    named = [(file.table, file) for file in upload.files]
    if len(named) == 1:
        named = [(_table_of(upload.files[0], order, tables, options), upload.files[0])]
    absent = sorted(set(options.tables or ()) - {name for name, _ in named})
    if absent:
        raise ImportRefused(f"the upload has no file of the table {', '.join(absent)}")
    planned: dict[str, TableFile] = {}
    for name, file in named:
        if options.tables is not None and name not in options.tables:
            report.skipped[file.name] = "not among the tables that were asked for"
        elif name == AUDIT_TABLE.name:
            report.skipped[file.name] = "the audit trail is never imported"
        elif name is None or name not in order:
            raise ImportRefused(f"{file.name}: there is no table {name!r}; the tables are {', '.join(order)}")
        elif name not in tables and file.rows == 0:
            report.skipped[file.name] = "it has no rows, and no accessor writes its table"
        elif name not in tables:
            raise ImportRefused(
                f"{file.name}: no accessor writes the table {name!r}; add one, or name the others in the option tables"
            )
        elif name in planned:
            raise ImportRefused(f"{planned[name].file.name} and {file.name} are both of the table {name}")
        else:
            header = read_header(file, set(tables[name].columns))
            dialect = options.dialect or upload.dialect or "spreadsheet"
            planned[name] = TableFile(file, header, tables[name], dialect, needs_key=options.mode != "insert")
    return sorted(planned.values(), key=lambda file: order.index(file.table.name))


def _importable(storage: Storage) -> dict[str, ImportTable]:
    dialect = storage.engine.dialect
    tables: dict[str, ImportTable] = {}
    for accessor in storage.accessors:
        mapper = accessor.record.mapper
        # Which class a row of a hierarchy is of, a file cannot tell.
        if mapper.inherits is None and mapper.polymorphic_on is None:
            tables[mapper.local_table.name] = ImportTable(storage, accessor, dialect)
    return tables


def _table_of(file: CsvFile, order: list[str], tables: dict[str, ImportTable], options: CsvImportOptions) -> str:
    """Name of the table that the only file is of: as asked for, as the file is called, or the only one it fits."""
    if options.tables is not None and len(options.tables) == 1:
        return options.tables[0]
    if file.table in order:
        return str(file.table)
    names = read_header(file, {name for table in tables.values() for name in table.columns}).names
    fitting = [
        name for name, table in tables.items() if not table.unknown(names) and not table.missing(names, needs_key=False)
    ]
    if len(fitting) != 1:
        which = f"each of {', '.join(fitting)}" if fitting else "no table"
        raise ImportRefused(f"{file.name} fits {which}; name its table with the option tables")
    return fitting[0]


class _Import:
    """One import, inside its transaction."""

    def __init__(self, storage: Storage, session: Session, options: CsvImportOptions) -> None:
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
            self._findings[file] = TableFindings(file)
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
                self._findings[file].bad(BadRow(row.line, [taken]))
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
            self._findings[file].bad(BadRow(row.line, [Finding(column, reason)]))

    def _refused(self, file: TableFile, row: Row, error: Exception) -> None:
        if isinstance(error, ConstraintViolation):
            self._waiting.append((file, row, error))
            refuse_too_many(len(self._waiting))
        elif isinstance(error, InvalidRecord):
            self._findings[file].bad(BadRow(row.line, [file.table.finding(problem) for problem in error.errors]))
        else:
            self._findings[file].bad(BadRow(row.line, [Finding(None, str(error))]))
