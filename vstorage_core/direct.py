"""The accessor's operations on plain rows: same checks, audit and results as through a session, at far less cost.

`ModelAccessor` comes here when nobody could tell the difference: the model is plain, nobody listens to SQLAlchemy's
events, no hook waits for the operation (those of an insert may: they run around it), and the running session, if there
is one, does not hold the records.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import compress, product
from typing import TYPE_CHECKING, Any

from sqlalchemy.orm.attributes import instance_state, set_committed_value
from sqlmodel import SQLModel

from vstorage_core.audit import Provenance, current_provenance, update_operation
from vstorage_core.contributions import Change, Operation
from vstorage_core.errors import RecordDeleted, RecordLimitReached
from vstorage_core.open_database import Scope
from vstorage_core.records import SOFT_DELETE_FIELD, RecordType, Values
from vstorage_core.rows import RowPlan, collector_paused
from vstorage_core.sessions import RowTransaction, remember_key
from vstorage_core.storage import Storage

if TYPE_CHECKING:
    from vstorage_core.accessor import ModelAccessor


_ONLY_AN_ACTOR = Provenance()[1:]
# Of an audit row, by whether there are snapshots before and after.
_COLUMNS: dict[tuple[bool, ...], tuple[str, ...]] = {
    present: ("timestamp", "actor", "component", "record_id", "operation", *compress(("before", "after"), present))
    for present in product((False, True), repeat=2)
}


def require_room(component: str, wanted: int, max_records: int) -> None:
    """Raise RecordLimitReached where more live records are wanted than there may be."""
    if wanted > max_records:
        raise RecordLimitReached(f"Max {max_records} records allowed for {component}")


class DirectRows:
    """One accessor's rows in one storage, for one operation in the scope that it is called in."""

    def __init__(
        self,
        storage: Storage,
        scope: Scope | None,
        accessor: ModelAccessor[Any],
        plan: RowPlan,
        audit_plan: RowPlan,
    ) -> None:
        self._storage = storage
        self._scope = scope
        self._plan = plan
        self._audit_plan = audit_plan
        self._record: RecordType = accessor.record
        self._component = accessor.component
        self._is_audited = accessor.audited

    def insert(self, instances: Sequence[SQLModel], actor: str | None, max_records: int | None) -> bool:
        """Insert them; False, with nothing done, when a row needs a default of SQLAlchemy's.

        Raises:
            RecordLimitReached: There would be more than `max_records` live records.
        """
        with collector_paused(len(instances)):
            # Before the lock is taken: others may write meanwhile.
            rows = [self._validated(self._record.values_of(instance)) for instance in instances]
            if not all(map(self._plan.takes, rows)):
                return False
            with self._storage.row_transaction(self._scope, len(rows)) as transaction:
                if max_records is not None:
                    count = self._plan.count(transaction.cursor, include_deleted=False)
                    require_room(self._component, count + len(rows), max_records)
                self._insert(transaction, rows, actor)
            for instance, values in zip(instances, rows, strict=True):
                self._settle(transaction, instance, values, is_new=True)
        return True

    def insert_one(self, instance: SQLModel, actor: str | None, max_records: int | None) -> bool:
        """The same for one, with less ado."""
        values = self._validated(self._record.values_of(instance))
        if not self._plan.takes(values):
            return False
        with self._storage.row_transaction(self._scope) as transaction:
            if max_records is not None:
                require_room(
                    self._component, self._plan.count(transaction.cursor, include_deleted=False) + 1, max_records
                )
            self._insert(transaction, (values,), actor)
        self._settle(transaction, instance, values, is_new=True)
        return True

    def _insert(self, transaction: RowTransaction, rows: Sequence[Values], actor: str | None) -> None:
        key, snapshot = self._record.key, self._record.snapshot
        for values in rows:
            self._plan.insert(transaction.cursor, values)
        self._audit(transaction, "create", [(values[key], None, snapshot(values)) for values in rows], actor)

    def save(self, instance: SQLModel, key: Any, given: Values, actor: str | None) -> bool:
        """Update the stored row to the given values, or insert it; False, with nothing done, as `insert`."""
        with self._storage.row_transaction(self._scope) as transaction:
            stored = self._plan.select_one(transaction.cursor, key)
            is_new = stored is None
            if stored is None:
                if instance_state(instance).key is not None:
                    self._record.require_values(self._component, key, given)
                values = self._validated(given)
                if not self._plan.takes(values):
                    return False
                self._insert(transaction, [values], actor)
            else:
                if self._record.is_deleted(stored):
                    raise RecordDeleted(f"{self._component} {key} is deleted; restore it before you change it")
                values = self._update(transaction, stored, given, actor)
        self._settle(transaction, instance, values, is_new=is_new)
        return True

    def update(self, key: Any, given: Values, actor: str | None) -> SQLModel | None:
        """Change fields of a live record; None when there is none."""
        with self._storage.row_transaction(self._scope) as transaction:
            stored = self._plan.select_one(transaction.cursor, key)
            if stored is None or self._record.is_deleted(stored):
                return None
            values = self._update(transaction, stored, given, actor)
        instance = self._plan.make(values)
        if transaction.session is not None:
            self._plan.attach(instance, transaction.session)
        return instance

    def _update(self, transaction: RowTransaction, stored: Values, given: Values, actor: str | None) -> Values:
        different = {name for name, value in given.items() if self._record.differs(name, value, stored[name])}
        if not different:
            return stored
        valid = self._record.validate(self._component, {**stored, **given}, different)
        changes = {name: valid[name] for name in self._record.columns if name in different}
        values = {**stored, **changes}
        before, after = self._record.snapshot(stored), self._record.snapshot(values)
        if before != after:
            key = stored[self._record.key]
            self._plan.update(transaction.cursor, [key], changes)
            operation = update_operation(stored.get(SOFT_DELETE_FIELD), values.get(SOFT_DELETE_FIELD))
            self._audit(transaction, operation, [(key, before, after)], actor)
        return values

    def delete(self, keys: Sequence[Any], actor: str | None) -> int:
        """Delete live records, or mark them deleted; returns how many there were."""
        soft = self._record.has_soft_delete
        with collector_paused(len(keys)), self._storage.row_transaction(self._scope, len(keys)) as transaction:
            rows = {row[self._record.key]: row for row in self._plan.select(transaction.cursor, keys)}
            found = [key for key in keys if key in rows and not self._record.is_deleted(rows[key])]
            live = [rows[key] for key in found]
            if not soft:
                self._plan.delete(transaction.cursor, found)
                self._audit(transaction, "delete", [self._snapshots(row, None) for row in live], actor)
                return len(live)
            mark = {SOFT_DELETE_FIELD: datetime.now(timezone.utc)}
            self._plan.update(transaction.cursor, found, mark)
            self._audit(transaction, "soft_delete", [self._snapshots(row, {**row, **mark}) for row in live], actor)
        return len(live)

    def restore(self, key: Any, actor: str | None) -> bool:
        """Make a soft-deleted record live again; False when there is none."""
        with self._storage.row_transaction(self._scope) as transaction:
            stored = self._plan.select_one(transaction.cursor, key)
            if stored is not None and self._record.is_deleted(stored):
                mark = {SOFT_DELETE_FIELD: None}
                self._plan.update(transaction.cursor, [key], mark)
                self._audit(transaction, "restore", [self._snapshots(stored, {**stored, **mark})], actor)
        return stored is not None

    def _validated(self, given: Values) -> Values:
        values = self._record.validate(self._component, given)
        values.setdefault(self._record.key, None)
        return values

    def _snapshots(self, before: Values, after: Values | None) -> tuple[Any, str | None, str | None]:
        snapshot = self._record.snapshot
        return before[self._record.key], snapshot(before), None if after is None else snapshot(after)

    def _audit(
        self,
        transaction: RowTransaction,
        operation: Operation,
        records: Sequence[tuple[Any, str | None, str | None]],
        actor: str | None,
    ) -> None:
        """Write what was done to the records, each a key with its snapshots before and after."""
        if not self._is_audited or not records:
            return
        provenance, timestamp = current_provenance(), datetime.now(timezone.utc)
        who = provenance.actor if actor is None else actor
        common: tuple[Any, ...] = (self._audit_plan.bind("timestamp", timestamp), who)
        # What is None is left out: see `rows._Insert`.
        _, before, after = records[0]
        names = _COLUMNS[before is not None, after is not None]
        if provenance[1:] != _ONLY_AN_ACTOR:
            common += provenance[1:]
            names = (*names[:2], *Provenance._fields[1:], *names[2:])
        component = self._component
        rows = [
            (*common, component, str(key), operation, *filter(None, (before, after))) for key, before, after in records
        ]
        self._audit_plan.insert_bound(transaction.cursor, names, rows)
        transaction.changes += [
            Change(component, operation, key, who, timestamp, before, after) for key, before, after in records
        ]

    def _settle(self, transaction: RowTransaction, instance: SQLModel, values: Values, *, is_new: bool) -> None:
        state, session = instance_state(instance), transaction.session
        if state.session_id is not None and state.session is session:
            for name, value in values.items():
                set_committed_value(instance, name, value)
            return
        if is_new:
            remember_key(state, was_made=instance.__dict__.get(self._record.key) is None)
        self._plan.settle(instance, values)
        if session is not None:
            self._plan.attach(instance, session)
            current = session._nested_transaction or session._transaction
            if is_new and current is not None:
                # As after a flush: when the transaction is rolled back, the instance is a new one again.
                current._new[state] = True
