"""Takes an import back: every change of its batch in reverse, while nobody has changed the records since."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import LargeBinary
from sqlmodel import Session, SQLModel, col, select

from vstorage_core import AuditLog, ImportRefused, ModelAccessor, Storage, acting_as, report_progress
from vstorage_core.audit import stored_values
from vstorage_core.records import SOFT_DELETE_FIELD, Values
from vstorage_transfer.importing import REFUSALS, DryRun
from vstorage_transfer.report import MAX_BAD_ROWS, counted

_CHUNK_ROWS = 500
_MAX_REPORT_BYTES = 64 * 1024 * 1024


class UndoOptions(BaseModel):
    """Options of undoing an import."""

    model_config = ConfigDict(extra="forbid")

    dry_run: bool = Field(default=False, description="Only report what would happen")


class UndoReport(BaseModel):
    """What was taken back.

    Attributes:
        undone: Batch of the import.
        batch: Stands in every audit row of the undoing, which can be undone as well; None for a dry run.
        changes: How many, per component.
    """

    dry_run: bool
    undone: str
    batch: str | None
    changes: dict[str, int] = {}


def undo_import(storage: Storage, stream: BinaryIO, options: UndoOptions) -> UndoReport:
    """Undo an import, all of it or nothing.

    Records that it created are deleted, softly where the model does so.

    Args:
        storage: Into which the import went.
        stream: The report of the import as JSON, or just its batch.
        options: See there.

    Raises:
        ImportRefused: There is no such batch, or records were changed since; `details` lists them.
        StorageUnavailable: The database cannot be written now; nothing was changed.
    """
    batch = _batch_of(stream)
    report = UndoReport(dry_run=options.dry_run, undone=batch, batch=None if options.dry_run else uuid.uuid4().hex)
    with suppress(DryRun), storage.transaction() as session, acting_as(batch=report.batch):
        _Undo(storage, session, report).run()
        if options.dry_run:
            raise DryRun
    return report


def _batch_of(stream: BinaryIO) -> str:
    text = stream.read(_MAX_REPORT_BYTES).decode(errors="replace").strip()
    if text.startswith("{"):
        try:
            batch = json.loads(text).get("batch")
        except ValueError:
            batch = None
        text = batch if isinstance(batch, str) else ""
    if not 0 < len(text) <= 255 or not text.isprintable():
        raise ImportRefused("give the report of the import, or the batch that stands in it; a dry run has none")
    return text


class _Undo:
    """One undoing, inside its transaction."""

    def __init__(self, storage: Storage, session: Session, report: UndoReport) -> None:
        self._storage = storage
        self._session = session
        self._report = report
        self._accessors = {accessor.component: accessor.bound_to(storage) for accessor in storage.accessors}
        self._conflicts: list[dict[str, Any]] = []

    def run(self) -> None:
        """Undo all of it.

        Raises:
            ImportRefused: It cannot be undone.
        """
        done = 0
        for rows in self._steps():
            done += len(rows)
            report_progress("undo", done)
            accessor = self._accessors.get(rows[0].component)
            if accessor is None:
                for row in rows:
                    self._conflict(row, "no accessor writes it")
                continue
            self._undo(accessor, self._unchanged(accessor, rows))
        if not done:
            raise ImportRefused("the audit trail has no such import; give the report of one that was made here")
        if self._conflicts:
            first = self._conflicts[0]
            raise ImportRefused(
                f"nothing was undone because of {counted(len(self._conflicts), 'conflict')}, the first:"
                f" {first['component']} {first['record_id']}: {first['reason']}",
                self._conflicts,
            )

    def _steps(self) -> Iterator[list[AuditLog]]:
        """The batch from its end, in runs of one operation on different records of one component."""
        statement = select(AuditLog).where(AuditLog.batch == self._report.undone).order_by(col(AuditLog.id).desc())
        last: int | None = None
        while True:
            page = statement if last is None else statement.where(col(AuditLog.id) < last)
            rows = self._session.exec(page.limit(_CHUNK_ROWS)).all()
            run: list[AuditLog] = []
            for row in rows:
                if run and (
                    (row.component, row.operation) != (run[0].component, run[0].operation)
                    or row.record_id in {other.record_id for other in run}
                ):
                    yield run
                    run = []
                run.append(row)
            if run:
                yield run
            if len(rows) < _CHUNK_ROWS:
                return
            last = rows[-1].id

    def _unchanged(self, accessor: ModelAccessor[Any], rows: Sequence[AuditLog]) -> list[AuditLog]:
        """Those whose record is as the batch left it."""
        record = accessor.record
        keys = {record.identity(row.record_id): row for row in rows}
        stored = dict(stored_values(self._session.connection(), record, keys))
        unchanged = []
        for key, row in keys.items():
            if _same(row.after, json.loads(record.snapshot(stored[key])) if key in stored else None):
                unchanged.append(row)
            else:
                self._conflict(row, self._who_changed(row))
        return unchanged

    def _who_changed(self, row: AuditLog) -> str:
        statement = select(AuditLog).where(
            AuditLog.component == row.component, AuditLog.record_id == row.record_id, col(AuditLog.id) > row.id
        )
        later = self._session.exec(statement.order_by(col(AuditLog.id).desc()).limit(1)).first()
        if later is None:
            return "was changed since, past the audit trail"
        return f"was changed since: {later.operation} by {later.actor} at {later.timestamp.isoformat()}"

    def _undo(self, accessor: ModelAccessor[Any], rows: Sequence[AuditLog]) -> None:
        if not rows:
            return
        record = accessor.record
        keys = [record.identity(row.record_id) for row in rows]
        try:
            with self._storage.transaction():
                if rows[0].operation == "create":
                    accessor.delete_many(keys)
                elif rows[0].operation == "delete":
                    accessor.insert_many([self._before(accessor, row) for row in rows])
                else:
                    for key, row in zip(keys, rows, strict=True):
                        self._change_back(accessor, key, row)
        except REFUSALS as error:
            if len(rows) == 1:
                self._conflict(rows[0], str(error))
                return
            half = len(rows) // 2
            self._undo(accessor, rows[:half])
            self._undo(accessor, rows[half:])
            return
        changes = self._report.changes
        changes[accessor.component] = changes.get(accessor.component, 0) + len(rows)

    def _change_back(self, accessor: ModelAccessor[Any], key: Any, row: AuditLog) -> None:
        if row.operation == "soft_delete":
            accessor.restore(key)
        elif row.operation == "restore":
            accessor.delete(key)
        else:
            accessor.save(self._before(accessor, row))

    def _before(self, accessor: ModelAccessor[Any], row: AuditLog) -> SQLModel:
        """A new instance with the values that the record had before."""
        record = accessor.record
        values: Values = {name: value for name, value in (row.before or {}).items() if name in record.columns}
        for name, column in record.columns.items():
            if isinstance(column.type, LargeBinary) and values.get(name) is not None:
                values[name] = base64.urlsafe_b64decode(values[name])
        instance: SQLModel = accessor.model(**record.validate(accessor.component, values))
        return instance

    def _conflict(self, row: AuditLog, reason: str) -> None:
        self._conflicts.append({"component": row.component, "record_id": row.record_id, "reason": reason})
        if len(self._conflicts) > MAX_BAD_ROWS:
            raise ImportRefused(f"more than {MAX_BAD_ROWS:,} records were changed since; nothing was undone")


def _same(one: Values | None, other: Values | None) -> bool:
    """Whether two snapshots are of the same state; when a record was deleted does not matter."""
    if one is None or other is None:
        return one is other
    return _plain(one) == _plain(other)


def _plain(snapshot: Values) -> str:
    deleted = snapshot.get(SOFT_DELETE_FIELD) is not None
    # As text, because 1 and true are equal in Python.
    return json.dumps({**snapshot, SOFT_DELETE_FIELD: deleted}, sort_keys=True)
