"""transaction() and use_session(): what is committed, what is undone, and whose the commit is."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

import pytest
from models import Counter, Member, Team, User
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import registry
from sqlmodel import Field, Session, SQLModel, select
from trail import history, trail

from vstorage_core import (
    AuditLog,
    Change,
    ConstraintViolation,
    InvalidRecord,
    ModelAccessor,
    Storage,
    TransactionConflict,
    TransactionError,
    acting_as,
)


class Boom(Exception):
    """What the code inside a transaction raises."""


@pytest.fixture
def counters(storage: Storage) -> ModelAccessor[Counter]:
    return ModelAccessor(Counter, "counters", storage=storage)


@pytest.fixture
def users(storage: Storage) -> ModelAccessor[User]:
    return ModelAccessor(User, "users", storage=storage)


def values(counters: ModelAccessor[Counter]) -> list[int]:
    return [counter.value for counter in counters.all()]


def committed(counters: ModelAccessor[Counter]) -> int:
    """How many counters other connections see."""
    with counters.storage.snapshot() as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM counter").scalar_one())


# All or nothing


def test_a_row_whose_audit_row_cannot_be_written_is_never_committed(sqlite_storage):
    counters = ModelAccessor(Counter, "counters", storage=sqlite_storage)
    with sqlite_storage.write_connection() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER no_negative_audit BEFORE INSERT ON auditlog WHEN NEW.after LIKE '%-1%'"
            " BEGIN SELECT RAISE(ABORT, 'no room'); END"
        )
        connection.commit()

    def write() -> None:
        with sqlite_storage.transaction():
            counters.insert(Counter(value=1))
            with pytest.raises(Exception, match="no room"):
                counters.insert(Counter(value=-1))

    with pytest.raises(TransactionConflict, match="nothing of it is stored"):
        write()
    assert values(counters) == []
    assert trail(sqlite_storage) == []
    counters.insert(Counter(value=2))
    assert values(counters) == [2]


def test_a_transaction_commits_at_its_end(make_database, open_storage):
    counters = ModelAccessor(Counter, "counters", storage=open_storage(make_database("sqlite")))
    with counters.storage.transaction():
        counters.insert(Counter())
        counters.insert(Counter())
        assert committed(counters) == 0
    assert committed(counters) == 2


@pytest.mark.parametrize("error", [Boom, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_is_raised_inside_undoes_everything_and_reaches_the_caller(storage, counters, error):
    told: list[Change] = []
    counters.after_commit()(told.extend)
    raised = error()
    with pytest.raises(error) as caught, storage.transaction() as session:
        counters.insert(Counter(value=1))
        session.add(Counter(value=2))
        raise raised
    assert caught.value is raised
    assert (values(counters), trail(storage), told) == ([], [], [])
    counters.insert(Counter(value=3))
    assert values(counters) == [3]


def test_a_transaction_that_failed_can_be_tried_again_with_the_same_instances(storage, users):
    ana, ben = (User(name=name, email=f"{name}@example.com") for name in ("Ana", "Ben"))
    with pytest.raises(Boom), storage.transaction():
        users.insert(ana)
        users.insert_many([ben])
        raise Boom
    # Somebody else gets the key that the first try had.
    users.insert(User(name="Cleo", email="cleo@example.com"))
    with storage.transaction():
        users.insert(ana)
        users.insert_many([ben])
    assert [user.name for user in users.all()] == ["Cleo", "Ana", "Ben"]


def test_an_operation_that_was_undone_can_be_tried_again_in_the_same_transaction(storage, users):
    ana = User(name="Ana", email="ana@example.com")
    with storage.transaction():
        with pytest.raises(Boom), storage.transaction():
            users.insert(ana)
            raise Boom
        users.insert(User(name="Cleo", email="cleo@example.com"))
        users.insert(ana)
    assert [user.name for user in users.all()] == ["Cleo", "Ana"]


def test_a_transaction_that_does_nothing_leaves_nothing(storage, counters):
    with storage.transaction():
        pass
    with storage.transaction():
        assert counters.count() == 0
    assert trail(storage) == []


def test_reads_inside_see_the_writes_before_them(storage, counters):
    with storage.transaction() as session:
        counter = counters.insert(Counter(value=1))
        assert counters.get(counter.id).value == 1
        session.add(Counter(value=2))
        assert (values(counters), counters.count()) == ([1, 2], 2)


def test_a_session_keeps_its_records_readable_after_the_commit(storage, users):
    with storage.transaction():
        user = users.insert(User(name="Ana", email="ana@example.com"))
    assert (user.name, user.age) == ("Ana", None)


def test_a_commit_that_the_database_refuses_leaves_nothing(storage):
    members = ModelAccessor(Member, "members", storage=storage)
    with pytest.raises(ConstraintViolation), storage.transaction() as session:
        members.insert(Member(name="m"))
        session.add(Member(name="lost", team_id=99))
    assert (members.count(), trail(storage)) == (0, [])


def test_a_key_that_was_given_is_kept_by_whatever_is_rolled_back(storage, counters):
    # An audit row is one that no validation has seen.
    entry = {"component": "c", "record_id": "1", "operation": "create", "actor": "ana"}
    given = [Counter(id=4711), AuditLog(id=12345, timestamp=datetime.now(timezone.utc), **entry)]
    with pytest.raises(Boom), storage.transaction() as session:
        session.add_all(given)
        session.flush()
        raise Boom
    assert [instance.id for instance in given] == [4711, 12345]


# Nesting


def test_a_transaction_inside_a_transaction_joins_it(make_database, open_storage):
    storage = open_storage(make_database("sqlite"), config={"engine": {"timeout_seconds": 1}})
    counters = ModelAccessor(Counter, "counters", storage=storage)
    with storage.transaction() as outer:
        counters.insert(Counter(value=1))
        with storage.transaction() as inner:
            assert inner is outer
            counters.insert(Counter(value=2))
        assert committed(counters) == 0
    assert values(counters) == [1, 2]


def test_an_error_in_an_inner_transaction_undoes_that_one_alone(storage, counters):
    with storage.transaction():
        counters.insert(Counter(value=1))
        with pytest.raises(Boom), storage.transaction():
            counters.insert(Counter(value=2))
            with storage.transaction():
                counters.insert(Counter(value=3))
            raise Boom
        with storage.transaction():
            counters.insert(Counter(value=4))
    assert values(counters) == [1, 4]
    assert [row.after["value"] for row in trail(storage)] == [1, 4]


def test_an_error_in_the_outer_transaction_undoes_what_the_inner_ones_finished(storage, counters):
    with pytest.raises(Boom), storage.transaction():
        with storage.transaction():
            counters.insert(Counter(value=1))
        counters.insert_many([Counter(value=2), Counter(value=3)])
        raise Boom
    assert (values(counters), trail(storage)) == ([], [])


@pytest.mark.parametrize("method", ["commit", "rollback", "close"])
def test_an_inner_transaction_cannot_be_ended_by_its_session(storage, counters, method):
    with storage.transaction():
        counters.insert(Counter(value=1))
        with (
            pytest.raises(TransactionError, match=rf"session\.{method}\(\) here would"),
            storage.transaction() as session,
        ):
            counters.insert(Counter(value=2))
            getattr(session, method)()
        counters.insert(Counter(value=3))
    assert [counter.value for counter in counters.all()] == [1, 3]


def test_a_savepoint_of_the_session_goes_with_the_outer_rollback(storage, counters):
    with pytest.raises(Boom), storage.transaction() as session:
        with session.begin_nested():
            session.add(Counter(value=1))
        raise Boom
    assert values(counters) == []


def test_an_error_caught_inside_leaves_what_was_loaded_as_it_is_stored(storage, users):
    user = users.insert(User(name="Ana", email="ana@example.com"))
    with storage.transaction():
        loaded = users.get(user.id)
        with pytest.raises(Boom), storage.transaction():
            loaded.name = "Anna"
            users.save(loaded)
            raise Boom
        assert loaded.name == "Ana"
    assert users.get(user.id).name == "Ana"
    assert len(trail(storage)) == 1


# use_session


def test_what_is_written_inside_use_session_is_committed(storage, counters):
    with storage.use_session():
        counter = counters.insert(Counter(value=1))
    assert counters.get(counter.id).value == 1
    with pytest.raises(Boom), storage.use_session():
        counters.insert(Counter(value=2))
        raise Boom
    # Each call of an accessor was a transaction of its own.
    assert values(counters) == [1, 2]


def test_what_is_added_to_the_session_of_use_session_is_committed_and_audited(storage, counters):
    with storage.use_session() as session:
        session.add(Counter(value=1))
    with pytest.raises(Boom), storage.use_session() as session:
        session.add(Counter(value=2))
        session.flush()
        raise Boom
    assert values(counters) == [1]
    assert history(storage) == [("counters", "create", 1)]


def test_use_session_gives_the_session_that_is_open(storage, counters):
    with storage.use_session() as outer:
        with storage.use_session() as inner:
            assert inner is outer
        with storage.transaction() as session:
            assert session is outer
            counters.insert(Counter(value=1))
        with pytest.raises(Boom), storage.transaction():
            counters.insert(Counter(value=2))
            raise Boom
        assert values(counters) == [1]


def test_a_transaction_inside_use_session_sees_what_others_committed_meanwhile(make_database, open_storage):
    url = make_database("sqlite")
    counters = ModelAccessor(Counter, "counters", storage=open_storage(url))
    other = ModelAccessor(Counter, "counters", storage=open_storage(url))
    with counters.storage.use_session():
        counter = counters.insert(Counter(value=1))
        assert counters.get(counter.id).value == 1
        other.update(counter.id, value=2)
        with counters.storage.transaction():
            assert counters.update(counter.id).value == 2


def test_accessors_join_a_session_of_somebody_else_and_leave_the_commit_to_its_owner(storage, counters):
    with Session(storage.engine) as session:
        with storage.use_session(session) as used:
            assert used is session
            kept_id = counters.insert(Counter(value=1), actor="ana").id
            with pytest.raises(Boom), storage.transaction():
                counters.insert(Counter(value=2))
                raise Boom
        session.commit()
        with storage.use_session(session):
            counters.insert(Counter(value=3))
        session.rollback()
    assert values(counters) == [1]
    assert [(row.record_id, row.actor) for row in trail(storage)] == [(kept_id, "ana")]


def test_use_session_with_the_session_of_the_open_transaction_is_that_transaction(storage, counters):
    told: list[Change] = []
    counters.after_commit()(told.extend)
    with storage.transaction() as session:
        with storage.use_session(session):
            counters.insert(Counter(value=1))
        assert told == []
    assert (values(counters), len(told)) == ([1], 1)


def test_a_session_that_is_used_twice_audits_once(storage, counters):
    with Session(storage.engine) as session:
        for value in (1, 2):
            with storage.use_session(session):
                counters.insert(Counter(value=value))
        session.commit()
    assert [row.after["value"] for row in trail(storage)] == [1, 2]


def test_the_owner_of_a_transaction_may_commit_in_between(storage, counters):
    with pytest.raises(Boom), storage.transaction() as session:
        counters.insert(Counter(value=1))
        session.commit()
        counters.insert(Counter(value=2))
        raise Boom
    assert values(counters) == [1]
    assert len(trail(storage)) == 1


def test_listeners_hear_nothing_of_what_the_owner_rolled_back(storage, counters):
    told: list[Any] = []
    counters.after_commit()(lambda changes: told.extend(change.after["value"] for change in changes))
    with storage.transaction() as session:
        counters.insert(Counter(value=1))
        session.rollback()
        counters.insert(Counter(value=2))
    assert values(counters) == [2]
    assert told == [2]


# Written through the session, without the accessor


def test_what_is_changed_through_the_session_is_audited(storage, users, counters):
    user = users.insert(User(name="Ana", email="ana@example.com"))
    with acting_as("ben", reason="through the session"), storage.transaction() as session:
        session.get_one(User, user.id).name = "Anna"
        session.add(Counter(value=1))
        session.flush()
        session.delete(session.exec(select(Counter)).one())
    rows = {row.operation: row for row in trail(storage)[1:]}
    changed, created, deleted = rows["update"], rows["create"], rows["delete"]
    assert (changed.component, changed.operation, changed.before["name"], changed.after["name"]) == (
        "users",
        "update",
        "Ana",
        "Anna",
    )
    assert (created.operation, created.after["value"]) == ("create", 1)
    assert (deleted.operation, deleted.before, deleted.after) == ("delete", created.after, None)
    assert {(row.actor, row.reason) for row in (changed, created, deleted)} == {("ben", "through the session")}


def test_what_is_soft_deleted_through_the_session_is_audited_as_such(storage, users):
    from models import now

    user = users.insert(User(name="Ana", email="ana@example.com"))
    with storage.transaction() as session:
        session.get_one(User, user.id).deleted_at = now()
    with storage.transaction() as session:
        session.get_one(User, user.id).deleted_at = None
    assert [row.operation for row in trail(storage)] == ["create", "soft_delete", "restore"]


def test_what_is_written_through_the_session_is_validated(storage, users):
    user = users.insert(User(name="Ana", email="ana@example.com"))
    with pytest.raises(InvalidRecord), storage.transaction() as session:
        session.get_one(User, user.id).age = -1
    with pytest.raises(InvalidRecord), storage.transaction() as session:
        session.add(User(name="Ben", email="nobody"))
    assert [(user.name, user.age) for user in users.all()] == [("Ana", None)]


def test_a_model_without_an_accessor_is_audited_under_its_tables_name(storage):
    with storage.transaction() as session:
        session.add(Team(name="red"))
    assert [(row.component, row.operation) for row in trail(storage)] == [("team", "create")]


def test_what_was_pending_before_an_operation_is_blamed_on_whom_it_was_done_by(storage, counters):
    with acting_as("ana"), storage.transaction() as session:
        session.add(Counter(value=1))
        counters.insert(Counter(value=2), actor="ben")
    assert [(row.after["value"], row.actor) for row in trail(storage)] == [(1, "ana"), (2, "ben")]


def test_a_model_whose_key_has_several_columns_is_written_through_the_session(make_database, open_storage):
    class Own(SQLModel, registry=registry()):
        pass

    class Seat(Own, table=True):
        row: int = Field(primary_key=True)
        place: int = Field(primary_key=True)
        taken: bool = False

    for engine in ("sqlite", "postgresql", "mariadb"):
        storage = open_storage(make_database(engine))
        Own.metadata.create_all(storage.engine)
        with storage.transaction() as session:
            session.add_all([Seat(row=1, place=2), Seat(row=1, place=3)])
        with storage.transaction() as session:
            session.get_one(Seat, (1, 2)).taken = True
        with pytest.raises(InvalidRecord), storage.transaction() as session:
            session.get_one(Seat, (1, 3)).taken = "perhaps"
        with storage.transaction() as session:
            session.delete(session.get_one(Seat, (1, 2)))
        created, other, changed, deleted = trail(storage)
        assert [row.operation for row in trail(storage)] == ["create", "create", "update", "delete"]
        assert {row.component for row in trail(storage)} == {"seat"}
        assert created.record_id == changed.record_id == deleted.record_id != other.record_id
        assert (created.after["taken"], changed.after["taken"], deleted.before["taken"]) == (False, True, True)


# Compatibility with code that was written for plain SQLModel


def test_a_violation_is_caught_as_sqlalchemys_own_error(storage, users):
    users.insert(User(name="Ana", email="ana@example.com"))
    with pytest.raises(IntegrityError), storage.transaction() as session:
        session.add(User(name="Second", email="ana@example.com"))
    assert users.count() == 1


# Several storages


@pytest.fixture
def two(make_database, open_storage) -> Iterator[list[ModelAccessor[Counter]]]:
    """The same model in two databases."""
    return [
        ModelAccessor(Counter, "counters", storage=open_storage(make_database(engine)))
        for engine in ("sqlite", "postgresql")
    ]


def test_two_storages_know_nothing_of_each_other(two):
    first, second = two
    with first.storage.transaction():
        first.insert(Counter(value=1))
        with second.storage.transaction():
            second.insert(Counter(value=2))
        with pytest.raises(Boom), second.storage.transaction():
            second.insert(Counter(value=3))
            raise Boom
        assert committed(second) == 1
        assert committed(first) == 0
    assert (values(first), values(second)) == ([1], [2])
    assert [len(trail(accessor.storage)) for accessor in two] == [1, 1]


def test_models_of_an_own_metadata_get_their_tables(make_database, open_storage):
    class Private(SQLModel, registry=registry()):
        pass

    class Note(Private, table=True):
        id: int | None = Field(default=None, primary_key=True)
        text: str

    storage = open_storage(make_database("sqlite"))
    notes = ModelAccessor(Note, "notes", storage=storage)
    storage.create_tables()
    assert notes.insert(Note(text="hello")).id == 1


def test_a_long_transaction_does_not_keep_its_savepoints(sqlite_storage):
    with sqlite_storage.transaction() as session:
        for _ in range(2):
            with sqlite_storage.transaction():
                savepoint = weakref.ref(session.get_nested_transaction())
            gc.collect()
            assert savepoint() is None
