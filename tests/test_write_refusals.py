"""What a refused write leaves behind: nothing of itself, all of what was there, and the caller's instance as it was."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import pytest
from models import Counter, Member, Team, User
from trail import history, trail

from vstorage_core import (
    Change,
    ConstraintViolation,
    InvalidInput,
    InvalidRecord,
    ModelAccessor,
    Storage,
    TransactionConflict,
    hookimpl,
)

EVENTS = [
    f"{when}_{operation}" for operation in ("insert", "update", "delete", "restore") for when in ("before", "after")
]


class Refused(Exception):
    """What no code of ours raises or catches."""


@pytest.fixture
def users(storage: Storage) -> ModelAccessor[User]:
    return ModelAccessor(User, "users", storage=storage)


@pytest.fixture
def sqlite_users(sqlite_storage: Storage) -> ModelAccessor[User]:
    return ModelAccessor(User, "users", storage=sqlite_storage)


def ana(**values: Any) -> User:
    return User(**{"name": "Ana", "email": "ana@example.com", **values})


def ben(**values: Any) -> User:
    return ana(**{"name": "Ben", "email": "ben@example.com", **values})


# What a refusal leaves behind


def write(users: ModelAccessor[User], operation: str, instance: User) -> None:
    if operation == "insert":
        users.insert(instance)
    elif operation == "update":
        users.update(instance.id, name="Anna")
    else:
        getattr(users, operation)(instance.id)


@pytest.mark.parametrize("event_name", EVENTS)
@pytest.mark.parametrize("by", ["a decorator", "a plugin"])
def test_what_a_hook_raises_reaches_the_caller_unchanged_and_leaves_nothing(
    make_database, open_storage, event_name, by
):
    refusal = Refused("not today")
    armed: list[bool] = []

    def refuse(instance: User) -> None:
        if armed:
            raise refusal

    hooks = {"refuse": staticmethod(hookimpl(specname=f"vstorage_{event_name}")(refuse))}
    storage = open_storage(make_database("sqlite"), plugins=[type("Refusing", (), hooks)()] if by == "a plugin" else [])
    users = ModelAccessor(User, "users", storage=storage)
    if by == "a decorator":
        getattr(users, event_name)()(refuse)
    committed: list[Change] = []
    users.after_commit()(committed.extend)
    operation = event_name.split("_")[1]
    record = ana()
    if operation != "insert":
        users.insert(record)
    if operation == "restore":
        users.delete(record.id)
    rows_before, trail_before = users.all(include_deleted=True), history(storage)
    armed.append(True)
    committed.clear()

    with pytest.raises(Refused) as caught:
        write(users, operation, record)

    assert caught.value is refusal
    assert users.all(include_deleted=True) == rows_before
    assert history(storage) == trail_before
    assert committed == []
    armed.clear()
    write(users, operation, record)
    assert len(history(storage)) == len(trail_before) + 1


def test_what_a_hook_wrote_elsewhere_goes_with_the_operation_it_refuses(storage, users):
    counters = ModelAccessor(Counter, "counters", storage=storage)

    @users.after_insert()
    def count_and_refuse(instance: User) -> None:
        counters.insert(Counter(value=1))
        raise Refused

    with pytest.raises(Refused):
        users.insert(ana())
    assert counters.count() == users.count() == len(trail(storage)) == 0


def test_one_refused_record_of_a_batch_refuses_the_batch_but_not_the_transaction_around_it(storage, users):
    @users.before_insert()
    def refuse_ben(instance: User) -> None:
        if instance.name == "Ben":
            raise Refused

    with storage.transaction():
        users.insert(ana())
        with pytest.raises(Refused):
            users.insert_many([ana(email="second@example.com"), ben()])
        users.insert(ana(email="third@example.com"))
    assert [user.email for user in users.all()] == ["ana@example.com", "third@example.com"]
    assert history(storage) == [("users", "create", user.id) for user in users.all()]


def test_a_constraint_refuses_the_whole_batch(storage, users):
    users.insert(ana())
    with pytest.raises(ConstraintViolation):
        users.insert_many([ben(), ana(name="Second")])
    assert [user.name for user in users.all()] == ["Ana"]
    assert len(trail(storage)) == 1


def test_a_constraint_violation_inside_a_transaction_spoils_only_its_own_operation(storage, users):
    with storage.transaction():
        users.insert(ana())
        with pytest.raises(ConstraintViolation):
            users.insert(ana(name="Second"))
        users.insert(ben())
    assert [user.name for user in users.all()] == ["Ana", "Ben"]
    assert len(trail(storage)) == 2


def test_delete_many_deletes_all_or_none(storage):
    teams = ModelAccessor(Team, "teams", storage=storage)
    empty, used = teams.insert_many([Team(name="empty"), Team(name="used")])
    ModelAccessor(Member, "members", storage=storage).insert(Member(name="m", team_id=used.id))

    @teams.before_delete()
    def refuse_used(instance: Team) -> None:
        if instance.name == "used":
            raise Refused

    with pytest.raises(Refused):
        teams.delete_many([empty.id, used.id])
    assert teams.count() == 2
    assert [row.operation for row in trail(storage)] == ["create"] * 3


def test_delete_many_tells_how_many_there_were(storage):
    counters = ModelAccessor(Counter, "counters", storage=storage)
    first, second, kept = counters.insert_many([Counter(), Counter(), Counter()])
    assert counters.delete_many([first.id, 999, second.id, first.id]) == 2
    assert counters.delete_many([first.id]) == 0
    assert counters.delete_many([]) == 0
    assert [counter.id for counter in counters.all()] == [kept.id]
    assert len(trail(storage)) == 5


def test_thousands_of_records_are_inserted_and_deleted_in_one_operation(storage):
    counters = ModelAccessor(Counter, "counters", storage=storage)
    stored = counters.insert_many([Counter(value=number) for number in range(1500)])
    assert counters.delete_many([counter.id for counter in stored]) == 1500
    assert counters.count() == 0
    assert len(trail(storage)) == 3000


def test_records_and_keys_may_come_from_generators(sqlite_storage):
    counters = ModelAccessor(Counter, "counters", storage=sqlite_storage)
    stored = counters.insert_many(Counter(value=number) for number in range(20_000))
    assert [counter.value for counter in stored] == list(range(20_000))
    assert counters.delete_many(counter.id for counter in stored if counter.value % 2) == 10_000
    assert [counter.value for counter in counters.all()] == list(range(0, 20_000, 2))


def test_what_a_generator_gave_is_not_lost_when_a_conflict_lets_it_run_again(storage):
    counters = ModelAccessor(Counter, "counters", storage=storage)
    conflicts: list[Exception] = []

    @counters.before_insert()
    @counters.before_delete()
    def meet_a_conflict(instance: Counter) -> None:
        if instance.value == 2 and conflicts:
            raise conflicts.pop()

    conflicts.append(TransactionConflict("run it again"))
    stored = counters.insert_many(Counter(value=number) for number in range(3))
    assert [counter.value for counter in counters.all()] == [0, 1, 2]
    conflicts.append(TransactionConflict("run it again"))
    assert counters.delete_many(counter.id for counter in stored) == 3
    assert (conflicts, counters.count()) == ([], 0)


def test_a_generator_that_raises_stores_nothing_and_leaves_the_garbage_collector_on(sqlite_storage):
    counters = ModelAccessor(Counter, "counters", storage=sqlite_storage)

    def broken() -> Iterator[Counter]:
        yield Counter(value=1)
        raise Refused

    with pytest.raises(Refused):
        counters.insert_many(broken())
    assert counters.count() == 0
    assert gc.isenabled()


# The caller's instance after a refusal


def test_a_refused_insert_can_be_corrected_and_inserted(sqlite_users):
    sqlite_users.insert(ana())
    instance = ben(email="ana@example.com")
    with pytest.raises(ConstraintViolation):
        sqlite_users.insert(instance)
    assert (instance.id, instance.name, instance.email) == (None, "Ben", "ana@example.com")
    instance.email = "ben@example.com"
    assert sqlite_users.get(sqlite_users.insert(instance).id).name == "Ben"


def test_a_batch_refused_after_it_was_written_can_be_inserted_later(sqlite_users):
    armed = [True]

    @sqlite_users.after_insert()
    def refuse(instance: User) -> None:
        if armed:
            raise Refused

    batch = [ana(), ben()]
    with pytest.raises(Refused):
        sqlite_users.insert_many(batch)
    assert [user.id for user in batch] == [None, None]
    armed.clear()
    sqlite_users.insert_many(batch)
    assert [user.name for user in sqlite_users.all()] == ["Ana", "Ben"]


@pytest.mark.parametrize("inside_a_transaction", [False, True])
@pytest.mark.parametrize("refused_by", ["the database", "the model", "a hook"])
def test_a_refused_save_can_be_corrected_and_saved(sqlite_storage, sqlite_users, inside_a_transaction, refused_by):
    sqlite_users.insert(ana())
    instance = sqlite_users.insert(ben())

    @sqlite_users.after_update()
    def refuse_hooked(instance: User) -> None:
        if instance.name == "Hooked":
            raise Refused

    wrong = {"the database": ("email", "ana@example.com"), "the model": ("age", -1), "a hook": ("name", "Hooked")}
    setattr(instance, *wrong[refused_by])

    def refuse_then_correct() -> None:
        with pytest.raises((ConstraintViolation, InvalidRecord, Refused)):
            sqlite_users.save(instance)
        assert instance.id == 2
        instance.name, instance.email, instance.age = "Benjamin", "ben@example.com", 30
        sqlite_users.save(instance)

    if inside_a_transaction:
        with sqlite_storage.transaction():
            refuse_then_correct()
    else:
        refuse_then_correct()
    stored = sqlite_users.get(2)
    assert (stored.name, stored.email, stored.age) == ("Benjamin", "ben@example.com", 30)
    assert history(sqlite_storage) == [("users", "create", 1), ("users", "create", 2), ("users", "update", 2)]


def test_a_refused_save_leaves_the_callers_values_alone(sqlite_users):
    sqlite_users.insert(ana())
    instance = sqlite_users.insert(ben())
    instance.name, instance.email = "Benjamin", "ana@example.com"
    with pytest.raises(ConstraintViolation):
        sqlite_users.save(instance)
    assert (instance.id, instance.name, instance.email) == (2, "Benjamin", "ana@example.com")
    with pytest.raises(ConstraintViolation):
        sqlite_users.save(User(id=2, name="Benny", email="ana@example.com"))
    assert sqlite_users.get(2).name == "Ben"


def test_a_save_that_a_hook_refuses_inside_a_transaction_is_not_written_at_its_end(storage, users):
    user = users.insert(ana())

    @users.before_update()
    def refuse(instance: User) -> None:
        raise Refused

    with storage.transaction():
        loaded = users.get(user.id)
        loaded.name = "Anna"
        with pytest.raises(Refused):
            users.save(loaded)
    assert users.get(user.id).name == "Ana"
    assert len(trail(storage)) == 1


def test_a_save_refused_inside_a_transaction_is_not_written_at_its_end(storage, users):
    user = users.insert(ana())
    with storage.transaction():
        loaded = users.get(user.id)
        loaded.age = -1
        with pytest.raises(InvalidRecord):
            users.save(loaded)
    assert users.get(user.id).age is None
    assert len(trail(storage)) == 1


def test_a_refused_update_inside_a_transaction_changes_nothing_at_its_end(storage, users):
    user = users.insert(ana(age=30))
    with storage.transaction():
        with pytest.raises(InvalidRecord):
            users.update(user.id, age=-1)
        assert users.get(user.id).age == 30
    assert users.get(user.id).age == 30
    assert len(trail(storage)) == 1


# Values that the model does not allow


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"name": None}, "name"),
        ({"name": "x" * 51}, "name"),
        ({"age": -1}, "age"),
        ({"age": "old"}, "age"),
        ({"age": 2**70}, "age"),
        ({"email": "nobody"}, "email"),
        ({"name": "a\0b"}, "name"),
        ({"name": "half a \ud800 character"}, "name"),
        ({"deleted_at": "yesterday"}, "deleted_at"),
    ],
)
def test_a_value_that_the_model_does_not_allow_is_refused_by_its_field(sqlite_users, values, field):
    with pytest.raises(InvalidRecord) as caught:
        sqlite_users.insert(ana(**values))
    assert [error["loc"] for error in caught.value.errors] == [(field,)]
    assert str(caught.value).startswith(f"users: {field}: ")
    assert isinstance(caught.value, ValueError)
    assert sqlite_users.count() == 0


def test_a_missing_value_is_refused_by_its_field(sqlite_users):
    with pytest.raises(InvalidRecord, match="users: email: Field required"):
        sqlite_users.insert(User(name="Ana"))


def test_values_are_stored_as_the_models_types_and_validators_make_them(sqlite_users):
    user = sqlite_users.insert(ana(email="ANA@Example.com", age="30"))
    assert (user.email, user.age) == ("ana@example.com", 30)
    assert sqlite_users.get(user.id) == user


def test_what_a_hook_changes_is_validated_and_stored(sqlite_storage, sqlite_users):
    @sqlite_users.before_insert()
    def normalise(instance: User) -> None:
        instance.name = instance.name.strip()
        instance.email = instance.email.replace(" ", "")

    user = sqlite_users.insert(ana(name=" Ana ", email=" A@example.com"))
    assert sqlite_users.get(user.id).name == "Ana"
    assert trail(sqlite_storage)[0].after["email"] == "a@example.com"


@pytest.mark.parametrize("method", ["insert", "save"])
@pytest.mark.parametrize("thing", [Counter(id=1), "a text", None])
def test_an_instance_of_another_type_is_refused(sqlite_users, method, thing):
    sqlite_users.insert(ana())
    with pytest.raises(InvalidInput, match="users stores User, not"):
        getattr(sqlite_users, method)(thing)
    assert [user.name for user in sqlite_users.all()] == ["Ana"]


def test_inserting_a_stored_instance_says_to_save_it(sqlite_users):
    user = sqlite_users.insert(ana())
    with pytest.raises(InvalidInput, match=r"users 1 is stored already; use save\(\)"):
        sqlite_users.insert(user)
