"""Rows read and written with SQL that is put together once per model, past SQLAlchemy's unit of work.

The one place that knows about prepared statements. A unit of work costs ten times what SQLite needs for the row
itself, so plain models go this way; whatever could tell the difference (relationships, inheritance, events, defaults
that SQLAlchemy or the database fill in) keeps the unit of work.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timezone
from itertools import compress, islice, product
from operator import attrgetter
from typing import Any, TypeVar

from sqlalchemy import Column, ColumnElement, DateTime, Dialect, Integer, Select, type_coerce
from sqlalchemy.orm import Session
from sqlalchemy.orm.attributes import instance_state
from sqlalchemy.types import NULLTYPE
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import UTCDateTime

from vstorage_core.records import SOFT_DELETE_FIELD, Converters, RecordType, UnlessNone, Values, compiled, converted

# SQLite takes 999 parameters in old builds.
CHUNK = 500
# So many records may be made before the collector sees them; the garbage of those who make them lives as long.
_PAUSED_FOR = 10_000

ItemT = TypeVar("ItemT")

_MAPPER_EVENTS = attrgetter(
    "before_insert", "after_insert", "before_update", "after_update", "before_delete", "after_delete"
)
_INSTANCE_EVENTS = attrgetter("load", "refresh", "refresh_flush", "expire")
_OWN_LISTENERS, _CLASS_LISTENERS = attrgetter("listeners"), attrgetter("parent_listeners")


class _Insert:
    """An INSERT of a row, and how values by name become its parameters.

    What is NULL in most rows stands in the statement: sqlite3 looks for an adapter of each None in vain.
    """

    def __init__(self, table: str, columns: Mapping[str, str], null: Collection[str], binds: Converters) -> None:
        places = ("NULL" if name in null else "?" for name in columns)
        self.statement = f"INSERT INTO {table} ({', '.join(columns.values())}) VALUES ({', '.join(places)})"  # noqa: S608
        items = [f"{converted(name, f'values[{name!r}]', binds)}, " for name in columns if name not in null]
        self.parameters = compiled(f"lambda values: ({''.join(items)})", binds)


class RowPlan:
    """The statements of one model on one dialect, and how rows become values and instances.

    Attributes:
        values_of: Makes the driver's row of all columns, in the order of `record.columns`, the values by name.
        takes: Whether the row of these values can be inserted as it is: SQLAlchemy puts a column's default in the place
            of None.
    """

    def __init__(self, record: RecordType, dialect: Dialect) -> None:
        self.record = record
        self._dialect = dialect
        quote = dialect.identifier_preparer
        table = record.mapper.local_table
        self._column_names = {name: quote.format_column(column) for name, column in record.columns.items()}
        self._table = quote.format_table(table)
        self._key_name = record.key
        self._key = self._column_names[record.key]
        self._binds: Converters = {
            name: bind for name, column in record.columns.items() if (bind := _bind(column, dialect)) is not None
        }
        loads: dict[str, Callable[[Any], Any]] = {
            name: process
            for name, column in record.columns.items()
            if (process := column.type.dialect_impl(dialect).result_processor(dialect, None)) is not None
        }
        items = [f"{name!r}: {converted(name, f'row[{place}]', loads)}" for place, name in enumerate(record.columns)]
        self.values_of: Callable[[Sequence[Any]], Values] = compiled(f"lambda row: {{{', '.join(items)}}}", loads)
        self._json_forms = _json_forms(record, loads)
        self._rows_for_json: dict[tuple[str, ...], Callable[[Sequence[Any]], Values]] = {}
        with_default = [f"values[{name!r}]" for name, column in record.columns.items() if column.default is not None]
        self.takes: Callable[[Values], bool] = compiled(f"lambda values: None not in [{', '.join(with_default)}]", {})
        # Where the database makes the key of a row that has none.
        self._makes_key = record.key_column is table.autoincrement_column and type(record.key_column.type) is Integer
        # By whether the key is to be made, and whether the record is live.
        self._row_inserts = {
            (made, live): _Insert(
                self._table,
                self._column_names,
                list(compress((record.key, SOFT_DELETE_FIELD), (made, live))),
                self._binds,
            )
            for made, live in product((False, True), repeat=2)
        }
        self._select = f"SELECT {', '.join(self._column_names.values())} FROM {self._table} WHERE {self._key} "  # noqa: S608
        self._count = f"SELECT count(*) FROM {self._table}"  # noqa: S608
        self._count_live = f"{self._count} WHERE {self._column_names.get(SOFT_DELETE_FIELD)} IS NULL"
        self._inserts: dict[tuple[str, ...], str] = {}
        self._updates: dict[tuple[str, ...], str] = {}
        self._class = record.mapper.class_
        self._new_instance = record.mapper.class_manager.new_instance

    def bind(self, name: str, value: Any) -> Any:
        """The value as the driver takes it."""
        bind = self._binds.get(name)
        if isinstance(bind, UnlessNone):
            return None if value is None else bind.convert(value)
        return value if bind is None else bind(value)

    # Statements; `cursor` is the driver's

    def insert(self, cursor: Any, values: Values) -> None:
        """Insert one row; a key that the database makes is put into `values`."""
        made = values[self._key_name] is None and self._makes_key
        live = self.record.has_soft_delete and values[SOFT_DELETE_FIELD] is None
        insert = self._row_inserts[made, live]
        cursor.execute(insert.statement, insert.parameters(values))
        if made:
            values[self._key_name] = cursor.lastrowid

    def insert_bound(self, cursor: Any, names: tuple[str, ...], rows: Sequence[Sequence[Any]]) -> None:
        """Insert rows of these columns, as the driver takes them, whose keys nobody needs to know."""
        statement = self._inserts.get(names)
        if statement is None:
            columns = ", ".join(self._column_names[name] for name in names)
            statement = f"INSERT INTO {self._table} ({columns}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
            self._inserts[names] = statement
        if len(rows) == 1:  # a third faster
            cursor.execute(statement, rows[0])
        else:
            cursor.executemany(statement, rows)

    def select(self, cursor: Any, keys: Sequence[Any]) -> Iterator[Values]:
        """The stored rows of these keys."""
        bound = [self.bind(self.record.key, key) for key in keys]
        for start in range(0, len(bound), CHUNK):
            chunk = bound[start : start + CHUNK]
            cursor.execute(f"{self._select} IN ({', '.join('?' * len(chunk))})", chunk)
            yield from map(self.values_of, cursor.fetchall())

    def select_one(self, cursor: Any, key: Any) -> Values | None:
        """The stored row of this key."""
        row = cursor.execute(self._select + "= ?", (self.bind(self.record.key, key),)).fetchone()
        return None if row is None else self.values_of(row)

    def update(self, cursor: Any, keys: Sequence[Any], changes: Mapping[str, Any]) -> None:
        """Give the rows of these keys the changed values."""
        names = tuple(changes)
        statement = self._updates.get(names)
        if statement is None:
            assignments = ", ".join(f"{self._column_names[name]} = ?" for name in names)
            statement = f"UPDATE {self._table} SET {assignments} WHERE {self._key} "  # noqa: S608
            self._updates[names] = statement
        self._for_keys(cursor, statement, [self.bind(name, value) for name, value in changes.items()], keys)

    def delete(self, cursor: Any, keys: Sequence[Any]) -> None:
        """Delete the rows of these keys."""
        self._for_keys(cursor, f"DELETE FROM {self._table} WHERE {self._key} ", [], keys)  # noqa: S608

    def _for_keys(self, cursor: Any, statement: str, parameters: list[Any], keys: Sequence[Any]) -> None:
        bound = [self.bind(self.record.key, key) for key in keys]
        for start in range(0, len(bound), CHUNK):
            chunk = bound[start : start + CHUNK]
            cursor.execute(f"{statement} IN ({', '.join('?' * len(chunk))})", [*parameters, *chunk])

    def count(self, cursor: Any, *, include_deleted: bool) -> int:
        """How many rows there are."""
        live_only = self.record.has_soft_delete and not include_deleted
        cursor.execute(self._count_live if live_only else self._count)
        return int(cursor.fetchone()[0])

    # Many rows for JSON

    def prepared(self, statement: Select[Any]) -> tuple[str, tuple[Any, ...]]:
        """The statement, of `raw_columns`, as the driver takes it, with its parameters."""
        made = statement.compile(dialect=self._dialect)
        state = made.construct_expanded_state()
        processors: dict[str, Any] = {**made._bind_processors, **state.processors}
        values = ((name, state.parameters[name]) for name in state.positiontup or ())
        return state.statement, tuple(
            processors[name](value) if name in processors else value for name, value in values
        )

    def for_json(self, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[Values]:
        """Rows of `raw_columns` as values that `records.encode` writes as it writes those of a snapshot."""
        chosen = tuple(names)
        convert = self._rows_for_json.get(chosen)
        if convert is None:
            if len(self._rows_for_json) == 64:  # clients choose the names
                self._rows_for_json.clear()
            forms = self._json_forms
            items = [f"{name!r}: {converted(name, f'row[{place}]', forms)}" for place, name in enumerate(chosen)]
            convert = self._rows_for_json[chosen] = compiled(f"lambda row: {{{', '.join(items)}}}", forms)
        with collector_paused(len(rows)):
            return list(map(convert, rows))

    # Instances

    def make(self, values: Values) -> SQLModel:
        """An instance of the stored row, detached, as if it had been loaded by a session that is closed."""
        instance: SQLModel = self._new_instance()
        state = instance_state(instance)
        state.dict.update(values)
        state.key = (self._class, (values[self._key_name],), None)
        return instance

    def make_all(self, cursor: Any, read_turn: Callable[[], AbstractContextManager[None]]) -> list[SQLModel]:
        """Instances of all rows that the cursor has left; each chunk is fetched in a turn of its own."""
        instances: list[SQLModel] = []
        while True:
            with read_turn():
                rows = cursor.fetchmany(CHUNK)
            with collector_paused(len(rows)):
                instances += [self.make(self.values_of(row)) for row in rows]
            if len(rows) < CHUNK:
                return instances

    def settle(self, instance: SQLModel, values: Values) -> None:
        """Make the instance, which no session knows, a detached one of the stored row with these values."""
        state = instance_state(instance)
        held = instance.__dict__
        held.update(values)
        state.key = (self._class, (values[self._key_name],), None)
        # What make_transient_to_detached() does for an instance that lacks nothing.
        state._commit_all(held)

    def attach(self, instance: SQLModel, session: Session) -> None:
        """Add a detached instance to the session, as `add` does where nobody listens and nothing cascades."""
        state = instance_state(instance)
        session.identity_map.add(state)
        state.session_id = session.hash_key


def raw_columns(record: RecordType, names: Iterable[str]) -> list[ColumnElement[Any]]:
    """The columns for a `select` whose rows come as the driver gives them, for `RowPlan.for_json`."""
    return [type_coerce(record.columns[name], NULLTYPE).label(name) for name in names]


def _bind(column: Column[Any], dialect: Dialect) -> Callable[[Any], Any] | UnlessNone | None:
    """How a value of the column is given to the driver; None: as it is."""
    kind = column.type
    if type(kind) is not UTCDateTime:
        return kind.dialect_impl(dialect).bind_processor(dialect)
    # SQLModel's decorator would check once more that there is a time zone, and SQLAlchemy calls it in a roundabout way.
    store: Any = kind.impl_instance.dialect_impl(dialect).bind_processor(dialect)
    return UnlessNone(lambda value: store(value.astimezone(timezone.utc)))


def _json_forms(record: RecordType, loads: Mapping[str, Callable[[Any], Any]]) -> Converters:
    return {
        name: _json_form(column, loads.get(name), record.canonical.get(name))
        for name, column in record.columns.items()
        if name in loads or name in record.canonical
    }


def _json_form(
    column: Column[Any], load: Callable[[Any], Any] | None, canonical: Callable[[Any], Any] | None
) -> Callable[[Any], Any] | UnlessNone:
    def convert(stored: Any) -> Any:
        value = stored if load is None else load(stored)
        return value if value is None or canonical is None else canonical(value)

    if load is None and canonical is not None:
        return UnlessNone(canonical)
    if load is not None and canonical is None:
        return load
    if type(column.type) not in (DateTime, UTCDateTime):
        return convert
    zone = "Z" if type(column.type) is UTCDateTime else ""

    def convert_time(stored: Any) -> Any:
        # SQLAlchemy stores `2026-11-24 08:30:00.000000`, which is JSON's spelling but for three characters; making a
        # datetime of it, only to write it again, costs more than the rest of the row.
        if type(stored) is str and len(stored) == 26 and stored[10] == " ":
            return (stored[:19] if stored.endswith(".000000") else stored).replace(" ", "T") + zone
        return convert(stored)

    return UnlessNone(convert_time)


class collector_paused:  # a class, because a generator costs three times as much
    """Do not let Python's collector look again and again through so many rows and instances that all stay."""

    def __init__(self, count: int) -> None:
        self._pauses = count >= CHUNK and gc.isenabled()

    def __enter__(self) -> None:
        if self._pauses:
            gc.disable()

    def __exit__(self, *_: object) -> None:
        if self._pauses:
            gc.enable()


def listed(items: Iterable[ItemT]) -> list[ItemT]:
    """A list of the items, in whose making the collector is paused for some thousands at a time.

    To make 100,000 records one by one takes half as long again with it.
    """
    found: list[ItemT] = []
    source = iter(items)
    while True:
        with collector_paused(_PAUSED_FOR):
            chunk = list(islice(source, _PAUSED_FOR))
        found += chunk
        if len(chunk) < _PAUSED_FOR:
            return found


def is_plain(record: RecordType) -> bool:
    """Whether rows of the model hold nothing that only the unit of work knows how to handle."""
    mapper = record.mapper
    return (
        not mapper.relationships
        and mapper.inherits is None
        and list(mapper.self_and_descendants) == [mapper]
        and mapper.version_id_col is None
        and mapper.polymorphic_on is None
        and len(mapper.attrs) == len(record.columns) == len(mapper.local_table.columns)
        and not any(attribute.deferred for attribute in mapper.column_attrs)
        and set(record.columns) <= set(record.model.model_fields)
        and all(
            column.onupdate is None
            and column.server_default is None
            and column.server_onupdate is None
            and not column.type._has_column_expression
            and not column.type._has_bind_expression
            for column in record.columns.values()
        )
    )


def has_listeners(record: RecordType) -> bool:
    """Whether somebody listens to SQLAlchemy's events of the model."""
    mapper = record.mapper
    return is_any_heard(_MAPPER_EVENTS(mapper.dispatch) + _INSTANCE_EVENTS(mapper.class_manager.dispatch))


def is_any_heard(events: tuple[Any, ...]) -> bool:
    """Whether one of SQLAlchemy's events has a listener; asking each for its truth costs three times as much."""
    return any(map(_OWN_LISTENERS, events)) or any(map(_CLASS_LISTENERS, events))
