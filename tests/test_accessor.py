"""Which models an accessor takes, and what it reads: keys of every type, filters, order, pages, streams."""

from __future__ import annotations

import contextlib
import gc
import uuid
import weakref
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from models import Color, Counter, Device, Sample, Ticket, User
from pydantic import BaseModel
from sqlalchemy import event
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel, col, func
from trail import history, trail

from vstorage_core import ConfigurationError, InvalidInput, ModelAccessor, RecordLimitReached, Storage


class Own(SQLModel, registry=registry()):
    """Base of models that other tests do not get tables of."""


@pytest.fixture
def users(storage: Storage) -> ModelAccessor[User]:
    return ModelAccessor(User, "users", storage=storage)


@pytest.fixture
def people(users: ModelAccessor[User]) -> ModelAccessor[User]:
    """Ana 30, Ben 20, Cleo 30, Dora without an age, and Emil who is deleted; keys 1 to 5."""
    ages = {"Ana": 30, "Ben": 20, "Cleo": 30, "Dora": None, "Emil": 40}
    users.insert_many([User(name=name, email=f"{name}@example.com", age=age) for name, age in ages.items()])
    users.delete(5)
    return users


def names(records: Any) -> list[str]:
    return [record.name for record in records]


# Keys


@pytest.mark.parametrize(
    ("model", "first", "second"),
    [
        (Counter, 1, 2),
        (Device, "A-17/é", "b 2"),
        (Ticket, uuid.UUID(int=1), uuid.UUID(int=2)),
    ],
)
def test_a_key_may_have_any_name_and_type(storage, model, first, second):
    accessor: Any = ModelAccessor(model, "things", storage=storage)
    field = {Counter: "value", Device: "label", Ticket: "title"}[model]
    values = {"value": (1, 2)}.get(field, ("one", "two"))
    key = accessor.record.key
    accessor.insert_many([model(**{key: first, field: values[0]}), model(**{key: second, field: values[0]})])

    assert getattr(accessor.get(first), key) == first
    assert getattr(accessor.get(str(first)), key) == first
    assert accessor.exists(second)
    assert getattr(accessor.update(first, **{field: values[1]}), field) == values[1]
    assert getattr(accessor.save(model(**{key: second, field: values[1]})), field) == values[1]
    assert accessor.delete(first)
    assert accessor.get(first) is None
    assert accessor.delete_many([second, first]) == 1
    assert history(storage) == [
        ("things", "create", first if model is not Ticket else str(first)),
        ("things", "create", second if model is not Ticket else str(second)),
        ("things", "update", first if model is not Ticket else str(first)),
        ("things", "update", second if model is not Ticket else str(second)),
        ("things", "delete", first if model is not Ticket else str(first)),
        ("things", "delete", second if model is not Ticket else str(second)),
    ]


@pytest.mark.parametrize("key", ["seven", 1.5, None, "", object()])
def test_what_cannot_be_a_key_is_refused(sqlite_storage, key):
    counters = ModelAccessor(Counter, "counters", storage=sqlite_storage)
    for read in (counters.get, counters.exists, counters.delete, lambda key: counters.update(key, value=1)):
        with pytest.raises(InvalidInput, match="cannot be a key of Counter"):
            read(key)


def test_a_key_too_large_for_the_database_finds_nothing_or_is_refused(storage):
    counters = ModelAccessor(Counter, "counters", storage=storage)
    with contextlib.suppress(InvalidInput):
        assert counters.get(2**80) is None


def test_a_composite_key_is_refused_when_the_accessor_is_made():
    class Slot(Own, table=True):
        shelf: int = Field(primary_key=True)
        place: int = Field(primary_key=True)

    with pytest.raises(ConfigurationError, match=r"Slot has the composite key \(shelf, place\); .* Add an id"):
        ModelAccessor(Slot, "slots")


def test_a_class_that_is_no_table_is_refused_when_the_accessor_is_made():
    class Plain(SQLModel):
        id: int

    class Other(BaseModel):
        id: int

    for model in (Plain, Other, dict):
        with pytest.raises(ConfigurationError, match=f"{model.__name__} is not a table; declare it with table=True"):
            ModelAccessor(model, "things")


@pytest.mark.parametrize("component", ["", "/users", "users/", " users", "x" * 256])
def test_a_component_that_is_no_name_is_refused(component):
    with pytest.raises(ConfigurationError, match="cannot be a component"):
        ModelAccessor(User, component)


# Every column type


FULL = {
    "text": 'é😀"\n\t',
    "number": -(2**63),
    "ratio": 0.1,
    "flag": True,
    "price": Decimal("1234567890.12"),
    "moment": datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=-5))),
    "day": date(2026, 2, 28),
    "clock": time(23, 59, 59, 999999),
    "duration": timedelta(days=3, seconds=4, microseconds=5),
    "token": uuid.UUID(int=5),
    "color": Color.BLUE,
    "raw": bytes(range(256)),
    "settings": {"a": [1, 2.5, None, {"b": "é"}], "": {}},
}


@pytest.mark.parametrize("values", [FULL, {}], ids=["full", "defaults"])
def test_every_column_type_comes_back_as_it_was_given(storage, values):
    samples = ModelAccessor(Sample, "samples", storage=storage)
    given = Sample(**values)
    expected = given.model_dump(exclude={"id"})
    stored = samples.get(samples.insert(given).id)
    for name, value in expected.items():
        assert getattr(stored, name) == value, name
        assert type(getattr(stored, name)) is type(value), name
    assert stored.moment.utcoffset() == timedelta(0)


def test_every_column_type_stands_in_the_trail_in_one_spelling(storage):
    samples = ModelAccessor(Sample, "samples", storage=storage)
    sample = samples.insert(Sample(**FULL))
    # From the database, where it came from Python before.
    samples.delete(sample.id)
    created, deleted = trail(storage)
    assert deleted.before == created.after
    assert {**created.after, "raw": created.after["raw"][:8]} == {
        "id": sample.id,
        "text": 'é😀"\n\t',
        "number": -(2**63),
        "ratio": 0.1,
        "flag": True,
        "price": "1234567890.12",
        "moment": "2026-01-02T08:04:05.678901Z",
        "day": "2026-02-28",
        "clock": "23:59:59.999999",
        "duration": "P3DT4.000005S",
        "token": "00000000-0000-0000-0000-000000000005",
        "color": "b",
        "raw": "AAECAwQF",
        "settings": {"a": [1, 2.5, None, {"b": "é"}], "": {}},
    }
    assert list(created.after) == list(Sample.model_fields)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"ratio": float("nan")}, "ratio: .*finite"),
        ({"ratio": float("inf")}, "ratio: .*finite"),
        ({"number": 2**63}, "number: .*64 bits"),
        ({"moment": datetime(2026, 1, 2)}, "moment: the time needs a time zone"),  # noqa: DTZ001
        ({"settings": {"a": float("nan")}}, "settings: .*JSON"),
        ({"settings": {"a": object()}}, "settings: .*JSON"),
        ({"settings": {"a": "\0"}}, "settings: .*NUL"),
        ({"settings": "text"}, "settings: .*dictionary"),
        ({"price": Decimal("1.005")}, "price: .*decimal places"),
        ({"price": Decimal("12345678901.00")}, "price: .*digits"),
        ({"color": "green"}, "color: "),
        ({"token": "no uuid"}, "token: "),
    ],
)
def test_what_some_database_could_not_keep_is_refused_on_every_one(sqlite_storage, values, message):
    samples = ModelAccessor(Sample, "samples", storage=sqlite_storage)
    with pytest.raises(InvalidInput, match=f"samples: {message}"):
        samples.insert(Sample(**values))
    assert samples.count() == 0


# Reads


def test_get_finds_a_record_by_its_key_and_nothing_else(people):
    assert people.get(1).name == "Ana"
    assert people.get("1").name == "Ana"
    assert people.get(99) is None


def test_find_filters_orders_and_pages(people):
    assert names(people.find(col(User.age) >= 25)) == ["Ana", "Cleo"]
    assert names(people.find(User.age == 30, col(User.name).startswith("C"))) == ["Cleo"]
    assert names(people.find(order_by="-name")) == ["Dora", "Cleo", "Ben", "Ana"]
    assert names(people.find(col(User.age).is_not(None), order_by="age,-name")) == ["Ben", "Cleo", "Ana"]
    assert names(people.find(order_by=["name"], limit=2, offset=1)) == ["Ben", "Cleo"]
    assert names(people.find(order_by=func.length(User.name).desc(), limit=1)) == ["Cleo"]
    assert names(people.find(order_by=[col(User.name).desc(), "id"], limit=1)) == ["Dora"]
    assert people.find(limit=0) == []


def test_all_orders_by_key_and_pages(people):
    assert names(people.all()) == ["Ana", "Ben", "Cleo", "Dora"]
    assert names(people.all(limit=2)) == ["Ana", "Ben"]
    assert names(people.all(offset=3)) == ["Dora"]
    assert names(people.all(limit=1, offset=1, order_by="-id")) == ["Cleo"]
    assert names(people.all(include_deleted=True)) == ["Ana", "Ben", "Cleo", "Dora", "Emil"]


def test_pages_over_equal_values_show_every_record_once(people):
    by_age = [names(people.find(User.age == 30, order_by="age", limit=1, offset=offset)) for offset in range(3)]
    assert by_age == [["Ana"], ["Cleo"], []]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"order_by": "size"}, "users: cannot order by 'size'; the fields are id, name, email, age, deleted_at"),
        ({"order_by": "-id; DROP TABLE users"}, "users: cannot order by 'id; DROP TABLE users'"),
        ({"limit": -1}, "limit and offset must not be negative"),
        ({"offset": -1}, "limit and offset must not be negative"),
    ],
)
def test_a_read_that_cannot_be_meant_is_refused(sqlite_storage, arguments, message):
    users = ModelAccessor(User, "users", storage=sqlite_storage)
    for read in (users.find, users.all):
        with pytest.raises(InvalidInput, match=message):
            read(**arguments)


def test_count_and_exists_know_live_records_unless_told_otherwise(people):
    assert (people.count(), people.count(include_deleted=True)) == (4, 5)
    assert people.count(User.age == 30) == 2
    assert people.count(col(User.age) > 35, include_deleted=True) == 1
    assert people.exists(1)
    assert people.exists("1")
    assert not people.exists(99)
    assert (people.exists(5), people.exists(5, include_deleted=True)) == (False, True)


# Streams


def test_iterate_reads_in_chunks_and_keeps_one_in_memory(make_database, open_storage):
    storage = open_storage(make_database("memory"))
    counters = ModelAccessor(Counter, "counters", storage=storage)
    counters.insert_many([Counter(value=number) for number in range(25)])
    chunks: list[str] = []
    event.listen(storage.engine, "begin", lambda connection: chunks.append("chunk"))

    alive: list[weakref.ref[Counter]] = []
    most, seen = 0, []
    for counter in counters.iterate(chunk_size=10):
        alive.append(weakref.ref(counter))
        seen.append(counter.value)
        del counter
        if len(seen) % 10 == 1:
            gc.collect()
            most = max(most, sum(reference() is not None for reference in alive))
    assert seen == list(range(25))
    assert len(chunks) == 3
    assert most <= 10


def test_iterate_takes_conditions_and_leaves_deleted_records_out(people):
    assert names(people.iterate(User.age == 30, chunk_size=1)) == ["Ana", "Cleo"]
    assert names(people.iterate(chunk_size=2)) == ["Ana", "Ben", "Cleo", "Dora"]
    assert names(people.iterate(include_deleted=True, chunk_size=2))[-1] == "Emil"


def test_the_loop_over_iterate_may_write(storage, people):
    for user in people.iterate(chunk_size=2):
        people.update(user.id, name=user.name.upper())
        if user.name == "Ben":
            people.delete(4)
    assert names(people.all()) == ["ANA", "BEN", "CLEO"]


def test_iterate_holds_no_transaction_between_its_chunks(sqlite_storage):
    counters = ModelAccessor(Counter, "counters", storage=sqlite_storage)
    counters.insert_many([Counter(value=number) for number in range(4)])
    stream = counters.iterate(chunk_size=2)
    next(stream)
    counters.update(4, value=40)
    with sqlite_storage.engine.connect() as connection:
        connection.exec_driver_sql("UPDATE counter SET value = 30 WHERE id = 3")
        connection.commit()
    assert [counter.value for counter in stream] == [1, 30, 40]


# Accessors and storages


def test_an_accessor_without_a_storage_uses_the_default_one_at_each_call(make_database, open_storage):
    from vstorage_core import use_default_storage

    users = ModelAccessor(User, "users")
    first, second = (open_storage(make_database("sqlite")) for _ in range(2))
    with use_default_storage(first):
        users.insert(User(name="Ana", email="a@example.com"))
        with use_default_storage(second):
            assert users.count() == 0
        assert users.count() == 1


def test_an_accessor_bound_to_another_storage_keeps_its_hooks(make_database, open_storage):
    users = ModelAccessor(User, "users")
    first = open_storage(make_database("sqlite"))
    bound = users.bound_to(first)
    told: list[Any] = []

    # Registered afterwards on the unbound one, as a module does after bootstrap.
    @users.before_insert()
    def shout(instance: User) -> None:
        instance.name = instance.name.upper()

    users.after_commit()(told.extend)
    assert bound.insert(User(name="Ana", email="a@example.com")).name == "ANA"
    assert [change.operation for change in told] == ["create"]
    assert bound.bound_to(first) is bound
    with pytest.raises(ConfigurationError, match="belongs to"):
        bound.bound_to(open_storage(make_database("sqlite")))


def test_an_unaudited_accessor_runs_hooks_and_leaves_no_audit_row(storage):
    counters = ModelAccessor(Counter, "counters", storage=storage, audited=False)
    ran: list[int] = []

    @counters.after_update()
    def note(instance: Counter) -> None:
        ran.append(instance.value)

    counter = counters.insert(Counter())
    counters.update(counter.id, value=1)
    with storage.transaction() as session:
        session.get_one(Counter, counter.id).value = 2
    counters.delete(counter.id)
    assert ran == [1]
    assert trail(storage) == []


def test_two_accessors_of_one_model_are_each_audited_under_their_own_component(storage):
    operators = ModelAccessor(User, "operators", storage=storage)
    admins = ModelAccessor(User, "admins", storage=storage)
    secret = ModelAccessor(User, "secret", storage=storage, audited=False)
    operators.insert(User(name="Ana", email="a@example.com"))
    admins.insert(User(name="Ben", email="b@example.com"))
    secret.insert(User(name="Cleo", email="c@example.com"))
    assert [row.component for row in trail(storage)] == ["operators", "admins"]


class Page(Own, table=True):
    id: int | None = Field(default=None, primary_key=True)


class Measure(Own, table=True):
    id: int | None = Field(default=None, primary_key=True)
    value: Decimal = Field(max_digits=38, decimal_places=10)


def test_a_model_may_have_nothing_but_a_key(storage):
    pages = ModelAccessor(Page, "pages", storage=storage)
    storage.create_tables()
    assert [pages.insert(Page()).id, pages.insert(Page()).id] == [1, 2]


def test_a_decimal_keeps_more_digits_than_python_computes_with(make_database, open_storage):
    storage = open_storage(make_database("postgresql"))
    measures = ModelAccessor(Measure, "measures", storage=storage)
    storage.create_tables()
    value = Decimal("1234567890123456789012345678.0123456789")
    assert measures.get(measures.insert(Measure(value=value)).id).value == value
    assert trail(storage)[0].after["value"] == str(value)


# A limit of records


@pytest.mark.parametrize("in_transaction", [False, True])
@pytest.mark.parametrize("hooked", [False, True])
def test_an_insert_beyond_the_limit_of_live_records_is_refused_and_stores_nothing(users, in_transaction, hooked):
    if hooked:
        users.before_insert()(lambda session, instance: None)
    users.insert_many([User(name=name, email=f"{name}@x.com") for name in "abc"], max_records=3)
    users.delete(1)
    users.insert(User(name="d", email="d@x.com"), max_records=3)
    refused = User(name="e", email="e@x.com")
    with users.storage.transaction() if in_transaction else contextlib.nullcontext():
        for instances in ([refused], [User(name="f", email="f@x.com"), User(name="g", email="g@x.com")]):
            with pytest.raises(RecordLimitReached, match="Max 3 records allowed for users"):
                users.insert_many(instances, max_records=3)
    assert names(users.all()) == ["b", "c", "d"]
    assert [row.operation for row in trail(users.storage)] == [*["create"] * 3, "soft_delete", "create"]
    # As it was: the caller may make room and try again.
    assert refused.id is None
    assert users.insert(refused, max_records=4).id is not None
