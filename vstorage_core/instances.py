"""Around a write: what a save takes from the caller's instance, and what is done when the write fails."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import inspect, select
from sqlalchemy.orm import make_transient, make_transient_to_detached
from sqlalchemy.orm.attributes import set_committed_value
from sqlmodel import SQLModel

from vstorage_core.errors import ConstraintViolation
from vstorage_core.records import RecordType, Values

if TYPE_CHECKING:
    from vstorage_core.storage import Storage


def take_changes(record: RecordType, instance: SQLModel) -> Values:
    """What the instance holds; one in a session gets its stored values back, lest something flush it too early."""
    given = record.values_of(instance)
    state = inspect(instance)
    session = state.session
    if session is not None and state.persistent:
        for name in given:
            history = state.attrs[name].history
            if history.has_changes():
                if history.deleted:
                    set_committed_value(instance, name, history.deleted[0])
                else:
                    session.expire(instance, [name])
    return given


def put_back(record: RecordType, instance: SQLModel, given: Values, *, was_new: bool) -> None:
    """After a save that failed: what was taken, so that the caller may correct it and try again."""
    state = inspect(instance)
    if state.session is not None and state.persistent:
        state.session.expire(instance)
        return
    if state.transient and not was_new:
        make_transient_to_detached(instance)
    for name, value in given.items():
        set_committed_value(instance, name, value)
    if was_new:
        make_transient(instance)
        setattr(instance, record.key, given[record.key])


def take_keys_back(record: RecordType, instances: Sequence[SQLModel], keys: Sequence[Any]) -> None:
    """After an insert that failed: the next try must not insist on keys that were not given."""
    for instance, key in zip(instances, keys, strict=True):
        if key is None and inspect(instance).transient:
            setattr(instance, record.key, None)


def name_reference(error: BaseException, storage: Storage, record: RecordType, rows: Iterable[Values]) -> None:
    """Find out which field points to nothing, if that is the error: SQLite does not tell."""
    if not isinstance(error, ConstraintViolation) or error.kind != "foreign_key" or error.fields:
        return
    written = list(rows)
    with storage.use_session() as session:
        for name, column in record.columns.items():
            wanted = {row[name] for row in written if row.get(name) is not None} if column.foreign_keys else ()
            for foreign_key in column.foreign_keys if wanted else ():
                there = select(foreign_key.column).where(foreign_key.column.in_(wanted))
                if len(wanted) > len(session.connection().execute(there.limit(len(wanted))).all()):
                    error.name_fields([name], f"{name} points to a record that does not exist")
                    return
