"""The audit trail: its table, who is acting, and the rows that a flush of a session leaves behind.

    session.flush()
      before_flush   read the stored rows of what is about to change, under the write lock
      (SQL)
      after_flush    one audit row per record that really changed, all in one statement

So whatever reaches the database through a vstorage session is audited, by an accessor or not, and each update's
`before` is the `after` of the one before it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime, timezone
from typing import Any, NamedTuple

import sqlalchemy
from pydantic_core import from_json
from sqlalchemy import (
    JSON,
    Column,
    Connection,
    Dialect,
    Engine,
    Index,
    String,
    TypeDecorator,
    inspect,
    select,
    tuple_,
)
from sqlalchemy.orm import InstanceState, Session
from sqlmodel import Field, SQLModel

from vstorage_core.contributions import Change, Operation
from vstorage_core.errors import InvalidInput
from vstorage_core.records import SOFT_DELETE_FIELD, RecordType, Values, encode_snapshot, record_type


class _RecordId(TypeDecorator[Any]):
    """A record's key of any type as text; whole numbers come back as int."""

    impl = String(255)
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        return None if value is None else str(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        # A file of the original has an INTEGER column here.
        if isinstance(value, str) and value.isdecimal() and value.isascii() and str(int(value)) == value:
            return int(value)
        return value


class _Snapshot(TypeDecorator[Any]):
    """A JSON column that is written as text encoded before."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[Any], Any]:
        return lambda value: value if value is None or isinstance(value, str) else encode_snapshot(value)

    def result_processor(self, dialect: Dialect, coltype: object) -> Callable[[Any], Any]:
        return lambda value: from_json(value) if isinstance(value, str | bytes) else value


class AuditLog(SQLModel, table=True):
    """One row per change of a record. The first eight columns are the original's.

    `record_id` compares with int, str and UUID alike. `before` and `after` hold the record's values as JSON; NULL
    before a create and after a hard delete.
    """

    __table_args__ = (
        Index("ix_auditlog_component_timestamp", "component", "timestamp", "id"),
        Index("ix_auditlog_component_record_id_timestamp", "component", "record_id", "timestamp", "id"),
    )

    id: int | None = Field(default=None, primary_key=True)
    timestamp: datetime = Field(index=True)
    component: str
    record_id: Any = Field(sa_column=Column(_RecordId, nullable=False))
    operation: str
    actor: str
    before: dict[str, Any] | None = Field(default=None, sa_column=Column(_Snapshot))
    after: dict[str, Any] | None = Field(default=None, sa_column=Column(_Snapshot))
    batch: str | None = Field(default=None, description="Changes that belong together, e.g. of one import")
    reason: str | None = Field(default=None, description="Why, in the actor's words")
    actor_source: str | None = Field(default=None, description="How the actor was known, e.g. header")
    remote_address: str | None = Field(default=None, description="From where the request came")
    request_id: str | None = Field(default=None, description="The HTTP request that caused it")


AUDIT_TABLE: sqlalchemy.Table = AuditLog.__table__  # type: ignore[attr-defined]


class Provenance(NamedTuple):
    """Who is acting and what is known about it; stands in every audit row of what is done meanwhile."""

    actor: str = "internal"
    batch: str | None = None
    reason: str | None = None
    actor_source: str | None = None
    remote_address: str | None = None
    request_id: str | None = None


_provenance: ContextVar[Provenance] = ContextVar("vstorage_provenance", default=Provenance())  # noqa: B039 (constant)


def current_provenance() -> Provenance:
    """Who is acting here and now."""
    return _provenance.get()


@contextmanager
def acting_as(actor: str | None = None, **details: str | None) -> Iterator[None]:
    """Blame what is written inside the block on `actor`, unless a call names another one.

    Args:
        actor: 1 to 255 printable characters; None keeps the current one.
        **details: Other columns of the audit row: `batch`, `reason`, `actor_source`, `remote_address`, `request_id`.

    Raises:
        InvalidInput: `actor` is blank, too long or not printable.
    """
    if actor is not None:
        details["actor"] = check_actor(actor)
    before = _provenance.get()
    _provenance.set(Provenance(**{**before._asdict(), **details}))
    try:
        yield
    finally:
        # No token: a dependency of FastAPI is entered in one context and left in another.
        _provenance.set(before)


def check_actor(actor: str) -> str:
    """`actor`, if an audit row can be blamed on it.

    Raises:
        InvalidInput: It is blank, longer than 255 characters, or not printable.
    """
    if not isinstance(actor, str) or not _can_be_an_actor(actor):
        raise InvalidInput("the actor must be 1 to 255 printable characters")
    return actor


# A program has few of them, and each operation asks.
@functools.lru_cache(maxsize=256)
def _can_be_an_actor(name: str) -> bool:
    return bool(name.strip()) and len(name) <= 255 and name.isprintable()


class Entry(NamedTuple):
    """One row of the trail in the making; snapshots are JSON text."""

    component: str
    record_id: Any
    operation: Operation
    before: str | None
    after: str | None


def write_entries(connection: Connection, entries: Sequence[Entry]) -> list[Change]:
    """Insert the entries, if there are any, in one statement, blamed on the current actor; returns them as changes."""
    if not entries:
        return []
    provenance, timestamp = current_provenance(), datetime.now(timezone.utc)
    common = {"timestamp": timestamp, **provenance._asdict()}
    connection.execute(AUDIT_TABLE.insert(), [{**common, **entry._asdict()} for entry in entries])
    return [
        Change(component, operation, key, provenance.actor, timestamp, before, after)
        for component, key, operation, before, after in entries
    ]


class FlushAudit:
    """The audit of one flush of a session.

    Args:
        component_of: Gives the component under which a model is audited, or None when it is not.
    """

    def __init__(self, session: Session, component_of: Callable[[type[SQLModel]], str | None]) -> None:
        self._component_of = component_of
        self._stored: dict[InstanceState[Any], Values] = {}
        by_type: dict[RecordType, list[InstanceState[Any]]] = {}
        for instance in [*session.dirty, *session.deleted]:
            if isinstance(instance, SQLModel) and component_of(type(instance)) is not None:
                by_type.setdefault(record_type(type(instance)), []).append(inspect(instance))
        for record, states in by_type.items():
            keys = (
                state.identity if len(record.keys) > 1 else state.identity and state.identity[0] for state in states
            )
            by_key = {key: state for key, state in zip(keys, states, strict=True) if key is not None}
            for key, values in stored_values(session.connection(), record, by_key):
                self._stored[by_key[key]] = values

    def entries(self, session: Session) -> list[Entry]:
        """What the flush did; called when its SQL has run and the session still knows what was new or changed."""
        found = []
        for instances, entry_of in (
            (session.new, self._created),
            (session.dirty, self._updated),
            (session.deleted, self._deleted),
        ):
            for instance in instances:
                model: type[SQLModel] = type(instance)
                component = self._component_of(model) if issubclass(model, SQLModel) else None
                if component is not None:
                    entry = entry_of(session, component, record_type(model), inspect(instance))
                    if entry is not None:
                        found.append(entry)
        return found

    def _created(self, session: Session, component: str, record: RecordType, state: InstanceState[Any]) -> Entry | None:
        values = _complete(session, record, state, {})
        return Entry(component, record.record_id(values), "create", None, record.snapshot(values))

    def _updated(self, session: Session, component: str, record: RecordType, state: InstanceState[Any]) -> Entry | None:
        stored = self._stored.get(state)
        if stored is None:
            # Became dirty during the flush, e.g. a child whose parent went; nothing of it was pending before.
            stored = {name: _committed_value(state, name) for name in record.columns}
        # What the UPDATE did not touch is as stored, even where the session has not seen another writer's change.
        untouched = {
            name: stored[name]
            for name, column in record.columns.items()
            if not state.attrs[name].history.has_changes()
            and column.onupdate is None
            and column.server_onupdate is None
        }
        before, after = record.snapshot(stored), record.snapshot(_complete(session, record, state, untouched))
        if before == after:
            return None
        marks = (stored.get(SOFT_DELETE_FIELD), state.dict.get(SOFT_DELETE_FIELD)) if record.has_soft_delete else ()
        return Entry(component, record.record_id(stored), update_operation(*marks), before, after)

    def _deleted(self, session: Session, component: str, record: RecordType, state: InstanceState[Any]) -> Entry | None:
        stored = self._stored.get(state)
        if stored is None:
            return None
        return Entry(component, record.record_id(stored), "delete", record.snapshot(stored), None)


def stored_values(connection: Connection, record: RecordType, keys: Iterable[Any]) -> Iterator[tuple[Any, Values]]:
    """The stored rows of these keys, locked until the transaction ends, as (key, values by attribute)."""
    wanted = list(keys)
    names = list(record.columns)
    statement = select(*record.columns.values()).with_for_update()
    wanted_key: Any = record.key_column if len(record.keys) == 1 else tuple_(*record.mapper.primary_key)
    for start in range(0, len(wanted), 500):
        chunk = wanted[start : start + 500]
        for row in connection.execute(statement.where(wanted_key.in_(chunk))):
            values = dict(zip(names, row, strict=True))
            yield record.key_of(values), values


def _complete(session: Session, record: RecordType, state: InstanceState[Any], known: Values) -> Values:
    """`known` and what the instance has; what the database made up and did not tell is read back."""
    values = {**{name: state.dict[name] for name in record.columns if name in state.dict}, **known}
    if len(values) < len(record.columns):
        for _, row in stored_values(session.connection(), record, [record.key_of(values)]):
            values = {**row, **values}
    return values


def _committed_value(state: InstanceState[Any], name: str) -> Any:
    history = state.attrs[name].history
    return next(iter([*history.deleted, *history.unchanged]), None)


def update_operation(deleted_before: Any = None, deleted_after: Any = None) -> Operation:
    """What an update is called, by the values of `deleted_at` before and after it."""
    if (deleted_before is None) == (deleted_after is None):
        return "update"
    return "soft_delete" if deleted_before is None else "restore"


def upgrade_audit_table(write_engine: Engine, read_engine: Engine) -> None:
    """Add to an audit table that the original or an older vstorage made the columns and indexes that it lacks."""
    with read_engine.connect() as connection:
        # Most often nothing is missing, and whoever only reads must not wait for writers.
        if not any(_missing(connection)):
            return
    with write_engine.begin() as connection:
        # Once more: another process may have been faster.
        columns, indexes = _missing(connection)
        quote = connection.dialect.identifier_preparer
        for column in columns:
            kind = column.type.compile(connection.dialect)
            connection.exec_driver_sql(
                f"ALTER TABLE {quote.format_table(AUDIT_TABLE)} ADD COLUMN {quote.format_column(column)} {kind}"
            )
        for index in indexes:
            index.create(connection)


def _missing(connection: Connection) -> tuple[list[Column[Any]], list[Index]]:
    inspector = inspect(connection)
    if not inspector.has_table(AUDIT_TABLE.name):
        return [], []
    columns = {column["name"] for column in inspector.get_columns(AUDIT_TABLE.name)}
    indexes = {index["name"] for index in inspector.get_indexes(AUDIT_TABLE.name)}
    return (
        [column for column in AUDIT_TABLE.columns if column.name not in columns],
        [index for index in AUDIT_TABLE.indexes if index.name not in indexes],
    )
