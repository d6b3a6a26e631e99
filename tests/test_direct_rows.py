"""Rows written past the unit of work: nobody can tell the difference, except by the time it takes."""

from __future__ import annotations

import json
import re
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from models import Color, Device, Sample, Ticket, User
from pydantic import ValidationError
from sqlalchemy import event, inspect
from sqlalchemy.exc import SAWarning
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlmodel import Session, SQLModel
from trail import history, trail

from vstorage_core import Change, ModelAccessor, Storage

ADDRESS = re.compile(r" at 0x[0-9a-f]+")

# The two ways


@contextmanager
def opened(*, direct: bool) -> Iterator[Storage]:
    with Storage("sqlite://", entry_points=[]) as storage:
        storage.allows_direct_rows = direct
        storage.create_tables()
        yield storage


def plain(value: Any) -> Any:
    """A result that can be compared: the moment of a deletion is a different one each time."""
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if not isinstance(value, SQLModel):
        return value
    values = values_of(value)
    if values is None:
        return "unreadable"
    return {**without_moment(values), "types": [type(item).__name__ for item in values.values()], **state_of(value)}


def values_of(instance: SQLModel) -> dict[str, Any] | None:
    """None where a rolled-back session took them along."""
    try:
        return {name: getattr(instance, name) for name in type(instance).model_fields}
    except DetachedInstanceError:
        return None


def seen(instance: SQLModel) -> Any:
    """What the caller's instance looks like after a step; a value that was refused may be as given or as validated."""
    values = values_of(instance)
    if values is None:
        return "unreadable"
    with suppress(ValidationError):
        values = type(instance).model_validate(values).model_dump()
    return {**without_moment(values), **state_of(instance)}


def state_of(instance: SQLModel) -> dict[str, bool]:
    state = inspect(instance)
    return {"is new": state.transient, "is attached": state.persistent}


def without_moment(values: dict[str, Any] | None) -> dict[str, Any] | None:
    if values is None or "deleted_at" not in values:
        return values
    return {**values, "deleted_at": values["deleted_at"] is not None}


class World:
    """One storage in which steps are taken; `outcomes` is what a caller sees of them."""

    def __init__(self, storage: Storage, model: type[SQLModel]) -> None:
        self.storage = storage
        self.model = model
        self.accessor: ModelAccessor[Any] = ModelAccessor(model, "things", storage=storage)
        self.outcomes: list[Any] = []
        self.held: list[Any] = []
        self.accessor.after_commit()(self._told)

    def _told(self, changes: list[Change]) -> None:
        # The order of the records of one call is nobody's promise.
        told = [(change.operation, str(change.record_id), change.actor) for change in changes]
        self.outcomes.append(sorted(told))

    def take(self, steps: list[Any]) -> None:
        for step in steps:
            if isinstance(step, list):
                self._transaction(step)
            else:
                self._outcome(step)

    def _transaction(self, steps: list[Any]) -> None:
        fails, *inside = steps
        try:
            with self.storage.transaction():
                self.take(inside)
                if fails:
                    raise ZeroDivisionError
        except Exception as error:
            self.outcomes.append((type(error).__name__, str(error)))

    def _outcome(self, step: tuple[Any, ...]) -> None:
        name, *arguments = step
        try:
            result = getattr(self, name)(*arguments)
        except Exception as error:
            # A failed flush of what was pending has ended the transaction: nothing in it can succeed any more.
            reason = (type(error).__name__, ADDRESS.sub("", str(error))) if self._is_alive() else "lost"
            self.outcomes.append((step, reason))
        else:
            self.outcomes.append((step, plain(result)))
        if self.held:
            self.outcomes.append(seen(self.held[-1]))

    def _is_alive(self) -> bool:
        with self.storage.use_session() as session:
            return session.is_active

    def _keep(self, instance: Any) -> Any:
        if instance is not None:
            self.held.append(instance)
        return instance

    # Steps

    def insert(self, values: dict[str, Any], actor: str | None) -> Any:
        self._keep(instance := self.model(**values))
        assert self.accessor.insert(instance, actor=actor) is instance
        return instance

    def insert_many(self, many: list[dict[str, Any]], actor: str | None) -> Any:
        return self.accessor.insert_many([self.model(**values) for values in many], actor=actor)

    def save(self, values: dict[str, Any], actor: str | None) -> Any:
        self._keep(instance := self.model(**values))
        stored = self.accessor.save(instance, actor=actor)
        return stored, stored is instance

    def save_held(self, number: int, values: dict[str, Any]) -> Any:
        if not self.held:
            return None
        instance = self.held[number % len(self.held)]
        for name, value in values.items():
            setattr(instance, name, value)
        stored = self.accessor.save(instance)
        return stored, stored is instance

    def insert_held(self, number: int) -> Any:
        return self.accessor.insert(self.held[number % len(self.held)]) if self.held else None

    def update(self, key: Any, fields: dict[str, Any], actor: str | None) -> Any:
        return self._keep(self.accessor.update(key, actor=actor, **fields))

    def delete(self, key: Any, actor: str | None) -> Any:
        return self.accessor.delete(key, actor=actor)

    def delete_many(self, keys: list[Any]) -> Any:
        return self.accessor.delete_many(keys)

    def restore(self, key: Any) -> Any:
        return self.accessor.restore(key)

    def get(self, key: Any, include_deleted: bool) -> Any:
        return self._keep(self.accessor.get(key, include_deleted=include_deleted))

    def all(self) -> Any:
        return self.accessor.all(include_deleted=True)

    def add_to_session(self, values: dict[str, Any]) -> None:
        """Pending until the next operation or the end, as in code that uses the session itself."""
        with self.storage.use_session() as session:
            session.add(self.model(**values))

    def change_in_session(self, key: Any, fields: dict[str, Any]) -> None:
        with self.storage.use_session() as session:
            instance = session.get(self.model, key)
            for name, value in fields.items() if instance is not None else ():
                setattr(instance, name, value)

    def read_in_session(self, key: Any) -> Any:
        with self.storage.use_session() as session:
            return self._keep(session.get(self.model, key))

    # What is left

    def remains(self) -> Any:
        with self.storage.use_session() as session:
            session.expire_all()
        rows = [without_moment(record.model_dump()) for record in self.accessor.all(include_deleted=True)]
        audit = [
            (row.timestamp, str(row.record_id), row.operation, row.actor, row.component,
             json.dumps([without_moment(row.before), without_moment(row.after)]))
            for row in trail(self.storage)
        ]  # fmt: skip
        # Rows of one call have one timestamp, and no order among each other.
        return rows, [row[1:] for row in sorted(audit)]


def assert_no_difference(model: type[SQLModel], steps: list[Any]) -> None:
    with warnings.catch_warnings(), opened(direct=True) as direct, opened(direct=False) as unit_of_work:
        # SQLAlchemy warns of a key that the session knows already, before the database refuses it.
        warnings.simplefilter("ignore", SAWarning)
        worlds = [World(storage, model) for storage in (direct, unit_of_work)]
        for world in worlds:
            world.take(steps)
        first, second = (world.outcomes for world in worlds)
        for ours, theirs in zip(first, second, strict=False):
            assert ours == theirs
        assert len(first) == len(second)
        assert worlds[0].remains() == worlds[1].remains()


# Random steps


ACTORS = st.sampled_from([None, "ana", "ben"])


def steps_of(keys: st.SearchStrategy[Any], values: st.SearchStrategy[dict[str, Any]], key_name: str) -> Any:
    """Steps on records with these keys and values; a list among them is a transaction, headed by whether it fails."""
    keyed = st.tuples(keys, values).map(lambda pair: {**pair[1], key_name: pair[0]})
    some = values.map(lambda given: {name: given[name] for name in given if name != key_name}).flatmap(
        lambda given: st.sets(st.sampled_from(sorted(given)), max_size=2).map(
            lambda names: {name: given[name] for name in names}
        )
    )
    step = st.one_of(
        st.tuples(st.just("insert"), values | keyed, ACTORS),
        st.tuples(st.just("insert_many"), st.lists(values | keyed, max_size=3), ACTORS),
        st.tuples(st.just("save"), values | keyed, ACTORS),
        st.tuples(st.just("save_held"), st.integers(0, 5), some),
        st.tuples(st.just("insert_held"), st.integers(0, 5)),
        st.tuples(st.just("update"), keys, some, ACTORS),
        st.tuples(st.just("delete"), keys, ACTORS),
        st.tuples(st.just("delete_many"), st.lists(keys, max_size=4)),
        st.tuples(st.just("restore"), keys),
        st.tuples(st.just("get"), keys, st.booleans()),
        st.tuples(st.just("all")),
        st.tuples(st.just("add_to_session"), values),
        st.tuples(st.just("change_in_session"), keys, some),
        st.tuples(st.just("read_in_session"), keys),
    )  # fmt: skip

    def transactions_of(inside: Any) -> Any:
        return st.tuples(st.booleans(), st.lists(inside, max_size=6)).map(lambda pair: [pair[0], *pair[1]])

    inner = transactions_of(step)
    return st.lists(step | transactions_of(step | inner), min_size=1, max_size=8)


USERS = steps_of(
    st.integers(1, 4) | st.sampled_from(["1", "x"]),
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["Ana", "Ben", "x" * 60, None]) | st.just("Cleo"),
            "email": st.sampled_from([f"{number}@example.com" for number in range(4)] + ["UP@example.com", "nobody"]),
            "age": st.sampled_from([None, 3, "4", -1, 2**70]),
        }
    ),
    "id",
)

DEVICES = steps_of(
    st.sampled_from(["A1", "a1", "é'\"", "7", 7]),
    st.fixed_dictionaries({"serial": st.sampled_from(["A1", "B2", ""]), "label": st.sampled_from(["", "one", "x\0"])}),
    "serial",
)

TICKETS = steps_of(
    st.sampled_from([uuid.UUID(int=1), uuid.UUID(int=2), str(uuid.UUID(int=1)), "no uuid"]),
    st.fixed_dictionaries(
        {"key": st.sampled_from([uuid.UUID(int=1), uuid.UUID(int=3)]), "title": st.sampled_from(["a", "b", 5])}
    ),
    "key",
)

MOMENTS = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.sampled_from(  # noqa: DTZ001
    [timezone.utc, timezone(timedelta(hours=-5))]
))  # fmt: skip
SETTINGS = st.dictionaries(
    st.text(max_size=2), st.none() | st.integers() | st.floats() | st.text(max_size=2), max_size=2
)
SAMPLES = steps_of(
    st.integers(1, 3),
    st.fixed_dictionaries(
        {
            "text": st.sampled_from(["", "é😀", "'; --", "a\0"]),
            "number": st.sampled_from([0, -(2**63), 2**63 - 1, 2**63, "7"]),
            "ratio": st.sampled_from([0.1, 1, -0.0, 5e-324, "2.5", float("nan")]),
            "flag": st.sampled_from([True, False, 1, "yes"]),
            "price": st.sampled_from([Decimal("1.5"), Decimal("1.50"), 7, "0.1", Decimal("1.001")]),
            "moment": MOMENTS | st.sampled_from(["2026-01-01T00:00:00Z", "2026-01-01T00:00:00"]),
            "day": st.dates() | st.sampled_from([None, "2026-01-01"]),
            "clock": st.sampled_from([None, time(1, 2, 3, 4), "12:00"]),
            "duration": st.sampled_from([None, timedelta(microseconds=1), timedelta(days=-3), "PT1H", 5]),
            "token": st.sampled_from([None, uuid.UUID(int=5), str(uuid.UUID(int=6))]),
            "color": st.sampled_from([Color.RED, Color.BLUE, "b", "green"]),
            "raw": st.binary(max_size=3) | st.sampled_from([None, "text"]),
            "settings": SETTINGS,
        }
    ),
    "id",
)  # fmt: skip

quick = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


ANA = {"name": "Ana", "email": "0@example.com", "age": None}
ONE = uuid.UUID(int=1)
A_TICKET = {"key": ONE, "title": "a"}

# Each of these was a difference once.


@quick
@given(USERS)
@example([("insert_many", [], " "), ("update", 9, {}, " "), ("insert", {**ANA, "age": -1}, " ")])
@example([("insert", ANA, None), ("save", {**ANA, "id": "1", "name": "Ben"}, None)])
@example([[True, ("insert", ANA, None)], ("insert_held", 0)])
@example([[False, [True, ("insert", ANA, None)], ("insert_held", 0)]])
def test_users_are_stored_audited_and_answered_the_same_both_ways(steps):
    assert_no_difference(User, steps)


A_DEVICE = {"serial": "A1", "label": "one"}


@quick
@given(DEVICES)
@example([("insert", A_DEVICE, None), ("delete", "A1", None), ("save_held", 0, {"label": "x\0"}), ("insert_held", 0)])
@example([("insert", A_DEVICE, None), [True, ("save_held", 0, {})], ("delete", "A1", None), ("save_held", 0, {})])
def test_devices_are_stored_audited_and_answered_the_same_both_ways(steps):
    assert_no_difference(Device, steps)


@quick
@given(TICKETS)
@example([("insert", A_TICKET, None), ("save", {"key": ONE, "title": 5}, None)])
@example([("insert", A_TICKET, None), ("save", {"key": str(ONE), "title": "b"}, None)])
@example([[False, ("insert", A_TICKET, None), ("delete", ONE, None), ("save_held", 0, {})]])
def test_tickets_are_stored_audited_and_answered_the_same_both_ways(steps):
    assert_no_difference(Ticket, steps)


@quick
@given(SAMPLES)
def test_every_column_type_is_stored_audited_and_answered_the_same_both_ways(steps):
    assert_no_difference(Sample, steps)


# Whoever could tell the difference gets the unit of work


@pytest.fixture
def users(sqlite_storage: Storage) -> ModelAccessor[User]:
    return ModelAccessor(User, "users", storage=sqlite_storage)


@contextmanager
def listening(target: Any, name: str) -> Iterator[list[Any]]:
    """What SQLAlchemy tells a listener of that event."""
    heard: list[Any] = []

    def listener(*arguments: Any) -> None:
        heard.append(arguments)

    event.listen(target, name, listener)
    try:
        yield heard
    finally:
        event.remove(target, name, listener)


def write_all(users: ModelAccessor[User]) -> None:
    user = users.insert(User(name="Ana", email="ana@example.com"))
    users.update(user.id, name="Anna")
    user = users.get(user.id)
    user.name = "Anne"
    users.save(user)
    users.delete(user.id)
    users.restore(user.id)


@pytest.mark.parametrize(
    ("target", "name", "times"),
    [
        (lambda storage: User, "before_insert", 1),
        (lambda storage: User, "after_update", 4),
        (lambda storage: Session, "after_flush", 5),
        (lambda storage: Session, "after_commit", 5),
        (lambda storage: storage.engine, "after_cursor_execute", 5),
        (lambda storage: storage.engine, "commit", 5),
    ],
    ids=["mapper insert", "mapper update", "flush", "session commit", "engine execute", "engine commit"],
)
def test_listeners_to_sqlalchemys_events_hear_every_write(users, target, name, times):
    write_all(users)  # the statements of the direct way are ready
    with listening(target(users.storage), name) as heard:
        users.insert(User(name="Ben", email="ben@example.com"))
        users.update(2, name="Benny")
        users.save(User(id=2, name="Benjamin", email="ben@example.com"))
        users.delete(2)
        users.restore(2)
    assert len(heard) >= times
    assert [row.operation for row in trail(users.storage)[-5:]] == [
        "create", "update", "update", "soft_delete", "restore"
    ]  # fmt: skip


def test_a_listener_to_the_open_session_hears_what_accessors_write_in_it(users):
    with users.storage.transaction() as session, listening(session, "before_flush") as heard:
        users.insert(User(name="Ana", email="ana@example.com"))
    assert heard


def test_listeners_to_the_loading_of_records_hear_of_reads(users):
    users.insert(User(name="Ana", email="ana@example.com"))
    with listening(User, "load") as heard:
        users.get(1)
        users.all()
    assert len(heard) == 2


@pytest.mark.parametrize("write", [
    lambda users: users.update(1, name="Anna"),
    lambda users: users.save(User(id=1, name="Anna", email="ana@example.com")),
    lambda users: users.delete(1),
], ids=["update", "save", "delete"])  # fmt: skip
def test_a_record_that_the_session_holds_shows_what_accessors_write(users, write):
    users.insert(User(name="Ana", email="ana@example.com"))
    with users.storage.transaction() as session:
        held = session.get_one(User, 1)
        write(users)
        stored = session.connection().exec_driver_sql("SELECT name, deleted_at IS NULL FROM users").one()
        assert (held.name, held.deleted_at is None) == tuple(stored)
        assert session.get_one(User, 1) is held


def test_what_is_pending_in_the_session_is_written_before(users):
    with users.storage.transaction() as session:
        session.add(User(name="Ana", email="ana@example.com"))
        users.insert(User(name="Ben", email="ben@example.com"))
    assert [(user.id, user.name) for user in users.all()] == [(1, "Ana"), (2, "Ben")]
    assert history(users.storage) == [("users", "create", 1), ("users", "create", 2)]


def test_what_an_accessor_wrote_belongs_to_the_session_of_its_transaction(users):
    with users.storage.transaction() as session:
        user = users.insert(User(name="Ana", email="ana@example.com"))
        assert session.get_one(User, user.id) is user
        user.name = "Anna"
    assert users.get(1).name == "Anna"
    assert [row.operation for row in trail(users.storage)] == ["create", "update"]


@pytest.mark.parametrize("direct", [True, False])
def test_a_stored_record_that_is_saved_under_another_key_is_a_second_record(sqlite_storage, direct):
    sqlite_storage.allows_direct_rows = direct
    devices = ModelAccessor(Device, "devices", storage=sqlite_storage)
    device = devices.insert(Device(serial="A1", label="one"))
    device.serial = "B2"
    devices.save(device)
    assert [(device.serial, device.label) for device in devices.all()] == [("A1", "one"), ("B2", "one")]
    assert history(sqlite_storage) == [("devices", "create", "A1"), ("devices", "create", "B2")]


def test_what_was_written_outside_of_a_transaction_belongs_to_no_session(users):
    user = users.insert(User(name="Ana", email="ana@example.com"))
    for instance in (user, users.get(1), users.all()[0], users.update(1, name="Anna"), users.save(user)):
        assert inspect(instance).detached
