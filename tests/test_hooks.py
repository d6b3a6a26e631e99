"""How functions become hooks of an accessor, and what commit listeners hear."""

from __future__ import annotations

import functools
import logging
from typing import Any

import pytest
from models import Counter, User
from sqlmodel import Session
from trail import history, trail

from vstorage_core import Change, ConfigurationError, ModelAccessor, Storage, TransactionError, acting_as, hookimpl

DECORATORS = [
    f"{when}_{operation}" for operation in ("insert", "update", "delete", "restore") for when in ("before", "after")
]


@pytest.fixture
def users(sqlite_storage: Storage) -> ModelAccessor[User]:
    return ModelAccessor(User, "users", storage=sqlite_storage)


def ana() -> User:
    return User(name="Ana", email="ana@example.com")


# Styles


@pytest.mark.parametrize(
    "hook",
    [
        lambda session, instance: (session, instance),
        lambda s, user: (s, user),
        lambda _, obj: (_, obj),
        lambda instance, session: (session, instance),
        lambda *both: both,
        lambda session, instance, unit="ml": (session, instance),
    ],
    ids=["original", "other names", "underscore", "any order", "star", "default"],
)
def test_a_hook_gets_the_session_and_the_record_however_it_is_written(users, hook):
    seen: list[Any] = []

    @functools.wraps(hook)
    def note(*arguments: Any, **named: Any) -> None:
        seen.extend(hook(*arguments, **named))

    users.before_insert()(note)
    user = users.insert(ana())
    assert isinstance(seen[0], Session)
    assert seen[1] is user


def test_a_hook_gets_what_it_names(users):
    seen: dict[str, Any] = {}

    @users.after_update()
    def note(before, actor, accessor, instance) -> None:
        seen.update(before=before, actor=actor, accessor=accessor, instance=instance)

    user = users.insert(ana())
    users.update(user.id, name="Anna", actor="ben")
    assert (seen["before"]["name"], seen["actor"], seen["instance"].name) == ("Ana", "ben", "Anna")
    assert seen["accessor"].component == "users"


def test_a_hook_may_name_nothing_be_a_method_or_a_partial(users):
    seen: list[str] = []

    class Machine:
        def note(self, session: Session, instance: User) -> None:
            seen.append(f"method {instance.name}")

    def note_as(label: str, instance: User) -> None:
        seen.append(f"{label} {instance.name}")

    users.before_insert()(lambda: seen.append("nothing"))
    users.before_insert()(Machine().note)
    users.before_insert()(functools.partial(note_as, "partial"))
    users.insert(ana())
    assert seen == ["nothing", "method Ana", "partial Ana"]


@pytest.mark.parametrize(
    ("hook", "argument"),
    [
        (lambda instance, operator: None, "operator"),
        (lambda operator, session: None, "operator"),
        (lambda session, instance, operator: None, "operator"),
        (lambda instance, before: None, "before"),
        (lambda *, instance: None, "instance"),
    ],
)
def test_a_hook_with_an_argument_that_it_cannot_be_given_is_refused_when_it_is_made(users, hook, argument):
    with pytest.raises(ConfigurationError, match=rf"ModelAccessor\(User, 'users'\): .*{argument}"):
        users.before_insert()(hook)


def test_a_decorated_function_stays_what_it_was(users):
    def check(instance: User) -> None: ...

    for name in [*DECORATORS, "after_commit"]:
        assert getattr(users, name)()(check) is check


@pytest.mark.parametrize("name", [*DECORATORS, "after_commit"])
def test_an_async_hook_is_refused_when_it_is_made(users, name):
    async def check(instance: User) -> None: ...

    with pytest.raises(ConfigurationError, match=r"check is async; hooks are plain functions"):
        getattr(users, name)()(check)


# Writes in hooks


def test_what_a_hook_writes_is_part_of_the_operation(storage):
    users = ModelAccessor(User, "users", storage=storage)
    counters = ModelAccessor(Counter, "counters", storage=storage)

    @users.after_insert()
    def count(session: Session, instance: User) -> None:
        counters.insert(Counter(value=instance.id))
        session.add(Counter(value=-instance.id))

    user = users.insert(ana(), actor="ana")
    assert [counter.value for counter in counters.all()] == [user.id, -user.id]
    assert history(storage) == [("users", "create", user.id), ("counters", "create", 1), ("counters", "create", 2)]
    assert {row.actor for row in trail(storage)} == {"ana"}


@pytest.mark.parametrize("method", ["commit", "rollback", "close"])
def test_a_hook_that_ends_the_transaction_is_told_so_and_undoes_its_operation_alone(storage, method):
    users = ModelAccessor(User, "users", storage=storage)
    counters = ModelAccessor(Counter, "counters", storage=storage)

    @users.after_insert()
    def end(session, instance) -> None:
        getattr(session, method)()

    with pytest.raises(TransactionError, match=rf"session\.{method}\(\) here would end the transaction"):
        users.insert(ana())
    with storage.transaction():
        counters.insert(Counter())
        with pytest.raises(TransactionError, match="raise an exception to undo that"):
            users.insert(ana())
    assert (users.count(), counters.count()) == (0, 1)
    assert history(storage) == [("counters", "create", 1)]


def test_a_hook_may_read_the_audit_row_of_its_own_operation(users, sqlite_storage):
    seen: list[str] = []

    @users.after_insert()
    def read_trail(instance: User) -> None:
        seen.extend(row.operation for row in trail(sqlite_storage))

    users.insert(ana())
    assert seen == ["create"]


# After the commit


@pytest.fixture
def told(users: ModelAccessor[User]) -> list[list[Change]]:
    told: list[list[Change]] = []
    users.after_commit()(told.append)
    return told


def test_a_commit_listener_hears_what_was_done_and_by_whom(users, told, sqlite_storage):
    with acting_as("ana"), sqlite_storage.transaction():
        user = users.insert(ana())
        users.update(user.id, name="Anna", actor="ben")
        users.delete(user.id)
    [changes] = told
    assert [(change.component, change.operation, change.record_id, change.actor) for change in changes] == [
        ("users", "create", user.id, "ana"),
        ("users", "update", user.id, "ben"),
        ("users", "soft_delete", user.id, "ana"),
    ]
    rows = trail(sqlite_storage)
    assert [(change.before, change.after) for change in changes] == [(row.before, row.after) for row in rows]
    assert [change.timestamp for change in changes] == [row.timestamp for row in rows]


def test_a_commit_listener_hears_nothing_of_what_was_rolled_back(users, told, sqlite_storage):
    with pytest.raises(RuntimeError), sqlite_storage.transaction():
        users.insert(ana())
        raise RuntimeError
    assert told == []
    with sqlite_storage.transaction():
        kept = users.insert(User(name="Ben", email="b@example.com"))
        with pytest.raises(RuntimeError), sqlite_storage.transaction():
            users.insert(ana())
            raise RuntimeError
    assert [[change.record_id for change in changes] for changes in told] == [[kept.id]]


def test_a_commit_listener_hears_its_own_component_only_once_and_after_the_outermost_commit(
    users, told, sqlite_storage
):
    counters = ModelAccessor(Counter, "counters", storage=sqlite_storage)
    with sqlite_storage.transaction():
        with sqlite_storage.transaction():
            counters.insert(Counter())
            users.insert(ana())
        assert told == []
    assert [[change.component for change in changes] for changes in told] == [["users"]]
    counters.insert(Counter())
    assert len(told) == 1


def test_a_commit_listener_finds_the_data_saved(users, sqlite_storage):
    found: list[int] = []

    @users.after_commit()
    def look(changes: list[Change]) -> None:
        with sqlite_storage.snapshot() as connection:
            found.append(connection.exec_driver_sql("SELECT count(*) FROM users").scalar_one())

    users.insert(ana())
    assert found == [1]


def test_a_commit_listener_may_write(storage):
    users = ModelAccessor(User, "users", storage=storage)
    counters = ModelAccessor(Counter, "counters", storage=storage)

    @users.after_commit()
    def count(changes: list[Change]) -> None:
        counters.insert_many([Counter() for _ in changes])

    users.insert(ana())
    with storage.use_session():
        users.insert(User(name="Ben", email="b@example.com"))
        assert counters.count() == 2
    assert len(trail(storage)) == 4


def test_what_a_commit_listener_raises_is_logged_and_stops_nobody(make_database, open_storage, caplog):
    heard: list[str] = []

    class Alpha:
        @hookimpl
        def vstorage_after_commit(self, changes):
            raise RuntimeError("alpha is out of paper")

    class Beta:
        @hookimpl
        def vstorage_after_commit(self, storage, changes):
            heard.append("plugin")

    storage = open_storage(make_database("sqlite"), plugins=[Alpha(), Beta()])
    users = ModelAccessor(User, "users", storage=storage)

    @users.after_commit()
    def print_label(changes: list[Change]) -> None:
        raise RuntimeError("printer is on fire")

    users.after_commit()(lambda changes: heard.append("listener"))
    with caplog.at_level(logging.ERROR, logger="vstorage"):
        user = users.insert(ana())
    assert users.get(user.id) is not None
    assert heard == ["listener", "plugin"]
    assert ["print_label" in caplog.messages[0], "Alpha" in caplog.messages[1]] == [True, True]
    assert "printer is on fire" in caplog.text
    assert "alpha is out of paper" in caplog.text


def test_changes_made_through_a_session_are_told_as_well(users, told, sqlite_storage):
    with sqlite_storage.use_session() as session:
        session.add(ana())
        session.commit()
        session.add(User(name="Ben", email="b@example.com"))
    assert [change.operation for changes in told for change in changes] == ["create", "create"]
