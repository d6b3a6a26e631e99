"""The accessor's operations through SQLAlchemy's unit of work: for every model, with hooks, on every database.

The twin of `direct.py`, which nobody may tell from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Generic

from sqlalchemy import inspect
from sqlalchemy.orm import make_transient, make_transient_to_detached
from sqlalchemy.orm.attributes import flag_modified, set_committed_value
from sqlmodel import Session, select

from vstorage_core.audit import acting_as, stored_values
from vstorage_core.errors import RecordDeleted
from vstorage_core.records import SOFT_DELETE_FIELD, ModelT, Values
from vstorage_core.sessions import held

if TYPE_CHECKING:
    from vstorage_core.accessor import ModelAccessor


class UnitOfWork(Generic[ModelT]):
    """One accessor's records in a session, for one operation of one actor."""

    def __init__(self, accessor: ModelAccessor[ModelT], actor: str | None) -> None:
        self._accessor = accessor
        self._record = accessor.record
        self._storage = accessor.storage
        self._actor = actor

    def insert(self, instances: Sequence[ModelT], keys: Sequence[Any], max_records: int | None) -> None:
        """Insert them, with the keys that they were given or None.

        Raises:
            RecordLimitReached: There would be more than `max_records` live records.
        """
        accessor = self._accessor
        with self._write() as session:
            if max_records is not None:
                accessor.require_room(len(instances), max_records)
            for instance in instances:
                # Once more: one that was pending in the session has been stored meanwhile.
                accessor._key_of_new(instance)
                accessor._emit("before_insert", session, instance)
            if not self._insert_directly(instances):
                session.add_all(instances)
                session.flush()
                if any(key is not None for key in keys):
                    # PostgreSQL's sequence does not see keys that were given.
                    self._storage.advance_keys(self._record.mapper.local_table)
            for instance in instances:
                accessor._emit("after_insert", session, instance)

    def _insert_directly(self, instances: Sequence[ModelT]) -> bool:
        """Between the hooks of an insert the rows may go the short way; without hooks that has been tried."""
        accessor = self._accessor
        if not accessor.is_hooked("insert"):
            return False
        direct = accessor._direct(self._actor, instances, [accessor._key_of(instance) for instance in instances])
        return direct is not None and direct.insert(instances, self._actor, None)

    def save(self, instance: ModelT, key: Any, given: Values) -> ModelT:
        """Update the stored record to the given values, or insert it."""
        accessor = self._accessor
        known = inspect(instance).session
        attached = instance
        try:
            with self._write() as session:
                stored = next((row for _, row in stored_values(session.connection(), self._record, [key])), None)
                if stored is None:
                    if inspect(instance).key is not None:
                        self._record.require_values(accessor.component, key, given)
                        make_transient(instance)
                    for name, value in given.items():
                        setattr(instance, name, value)
                    return accessor.insert(instance)
                if self._record.is_deleted(stored):
                    raise RecordDeleted(f"{accessor.component} {key} is deleted; restore it before you change it")
                attached = self._attach(session, instance, given, stored)
                accessor._emit("before_update", session, attached, before=stored)
                session.flush()
                accessor._emit("after_update", session, attached, before=stored)
        except BaseException:
            if known is None and attached is instance:
                session = inspect(instance).session
                if session is not None:
                    session.expunge(instance)
            raise
        return attached

    def update(self, key: Any, given: Values) -> ModelT | None:
        """Change fields of a live record; None when there is none."""
        with self._write() as session:
            instance = self._load(session, key)
            if instance is None or self._accessor._is_deleted(instance):
                return None
            before = {name: getattr(instance, name) for name in self._record.columns}
            for name, value in given.items():
                self._change(instance, name, value, before)
            self._accessor._emit("before_update", session, instance, before=before)
            session.flush()
            self._accessor._emit("after_update", session, instance, before=before)
        return instance

    def delete(self, keys: Sequence[Any]) -> int:
        """Delete live records, or mark them deleted; returns how many there were."""
        with self._write() as session:
            found = {getattr(instance, self._record.key): instance for instance in self._load_many(session, keys)}
            live = [found[key] for key in keys if key in found and not self._accessor._is_deleted(found[key])]
            for instance in live:
                self._accessor._emit("before_delete", session, instance)
            now = datetime.now(timezone.utc)
            for instance in live:
                if self._record.has_soft_delete:
                    setattr(instance, SOFT_DELETE_FIELD, now)
                else:
                    session.delete(instance)
            session.flush()
            for instance in live:
                self._accessor._emit("after_delete", session, instance)
        return len(live)

    def restore(self, key: Any) -> bool:
        """Make a soft-deleted record live again; False when there is none."""
        with self._write() as session:
            instance = self._load(session, key)
            if instance is None:
                return False
            if self._accessor._is_deleted(instance):
                self._accessor._emit("before_restore", session, instance)
                setattr(instance, SOFT_DELETE_FIELD, None)
                session.flush()
                self._accessor._emit("after_restore", session, instance)
        return True

    @contextmanager
    def _write(self) -> Iterator[Session]:
        """The operation: in a transaction, as the actor, under the accessor's component."""
        with self._storage.transaction() as session:
            # What was pending before is blamed on whom it was done by.
            session.flush()
            scope = self._storage.current_scope()
            assert scope is not None  # noqa: S101 (transaction() has just opened it)
            outer, scope.accessor = scope.accessor, self._accessor
            try:
                with held(session), acting_as(self._actor):
                    yield session
                    # What a hook has left pending is done by this actor too.
                    session.flush()
            finally:
                scope.accessor = outer

    def _load(self, session: Session, key: Any) -> ModelT | None:
        return next(iter(self._load_many(session, [key])), None)

    def _load_many(self, session: Session, keys: Sequence[Any]) -> Iterator[ModelT]:
        """The records as they are stored now, locked; whatever the session remembers of them is refreshed."""
        model = self._accessor.model
        key = getattr(model, self._record.key)
        statement = select(model).with_for_update().execution_options(populate_existing=True)
        for start in range(0, len(keys), 500):
            yield from session.exec(statement.where(key.in_(keys[start : start + 500])))

    def _attach(self, session: Session, instance: ModelT, given: Values, stored: Values) -> ModelT:
        """`instance` in the session, changed against `stored` in what differs and in nothing else."""
        record, state = self._record, inspect(instance)
        if state.session is not session:
            identity = record.mapper.identity_key_from_primary_key((stored[record.key],))
            if identity in session.identity_map or state.session is not None or record.mapper.relationships:
                for name, value in given.items():
                    setattr(instance, name, value)
                return session.merge(instance)
            if state.transient:
                set_committed_value(instance, record.key, stored[record.key])
                make_transient_to_detached(instance)
            session.add(instance)
        for name, value in given.items():
            set_committed_value(instance, name, stored[name])
            self._change(instance, name, value, stored)
        return instance

    def _change(self, instance: ModelT, name: str, value: Any, stored: Values) -> None:
        if self._record.differs(name, value, stored[name]):
            setattr(instance, name, value)
            if value == stored[name]:
                # SQLAlchemy would not write true over 1.
                flag_modified(instance, name)
