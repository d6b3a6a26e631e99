"""The one path of every write: its order, what is written, the chain of snapshots."""

from __future__ import annotations

from decimal import Decimal
from itertools import pairwise
from typing import Any

import pytest
from models import Counter, Device, Member, Sample, Team, User
from sqlalchemy import Text, column, event
from sqlmodel import col, select
from trail import history, trail

from vstorage_core import (
    AuditLog,
    Change,
    InvalidInput,
    ModelAccessor,
    Storage,
    hookimpl,
)

EVENTS = [
    f"{when}_{operation}" for operation in ("insert", "update", "delete", "restore") for when in ("before", "after")
]


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


# The order


def logging_plugin(name: str, log: list[str], **options: bool) -> object:
    """A plugin of that name that logs each of its hooks as it runs."""

    def log_event(event_name: str) -> Any:
        def hook(instance: Any) -> None:
            log.append(f"{event_name}: {name}")

        def wrapper(instance: Any) -> Any:
            log.append(f"{event_name}: {name} opens")
            yield
            log.append(f"{event_name}: {name} closes")

        return hookimpl(specname=f"vstorage_{event_name}", **options)(wrapper if options.get("wrapper") else hook)

    hooks = {event_name: staticmethod(log_event(event_name)) for event_name in EVENTS}
    if not options:

        @hookimpl
        def vstorage_after_commit(changes: list[Change]) -> None:
            log.append(f"after_commit: {name}")

        hooks["vstorage_after_commit"] = staticmethod(vstorage_after_commit)
    return type(name, (), hooks)()


def logging_hook(log: list[str], entry: str) -> Any:
    return lambda instance: log.append(entry)


@pytest.fixture
def log() -> list[str]:
    return []


@pytest.fixture
def logged_users(make_database, open_storage, log) -> ModelAccessor[User]:
    """Users of a storage in which everything that happens in a write is logged."""
    # Neither the names nor the order of registration are the order in which they run.
    storage = open_storage(
        make_database("sqlite"),
        plugins=[
            logging_plugin("Beta", log),
            logging_plugin("AtLast", log, trylast=True),
            logging_plugin("Wrapping", log, wrapper=True),
            logging_plugin("Alpha", log),
            logging_plugin("ZedFirst", log, tryfirst=True),
        ],
    )
    users = ModelAccessor(User, "users", storage=storage)
    for event_name in EVENTS:
        for which in ("first", "second"):
            getattr(users, event_name)()(logging_hook(log, f"{event_name}: {which} decorator"))

    @users.after_commit()
    def listener(changes: list[Change]) -> None:
        log.append("after_commit: listener")

    @event.listens_for(storage.engine, "before_cursor_execute")
    def log_statement(connection, cursor, statement, parameters, context, executemany) -> None:
        words = statement.replace("INTO ", "").replace("FROM ", "").split()
        if words[0] in ("INSERT", "UPDATE", "DELETE"):
            log.append(f"{words[0]} {words[1]}")

    event.listen(storage.engine, "begin", lambda connection: log.append("BEGIN"))
    event.listen(storage.engine, "commit", lambda connection: log.append("COMMIT"))
    return users


def test_an_insert_runs_in_this_order(logged_users, log):
    logged_users.insert(ana())
    assert log == [
        "BEGIN",
        "before_insert: Wrapping opens",
        "before_insert: ZedFirst",
        "before_insert: first decorator",
        "before_insert: second decorator",
        "before_insert: Alpha",
        "before_insert: Beta",
        "before_insert: AtLast",
        "before_insert: Wrapping closes",
        "INSERT users",
        "INSERT auditlog",
        "after_insert: Wrapping opens",
        "after_insert: ZedFirst",
        "after_insert: first decorator",
        "after_insert: second decorator",
        "after_insert: Alpha",
        "after_insert: Beta",
        "after_insert: AtLast",
        "after_insert: Wrapping closes",
        "COMMIT",
        "after_commit: listener",
        "after_commit: Alpha",
        "after_commit: Beta",
    ]


@pytest.mark.parametrize(
    ("operation", "statement"),
    [("update", "UPDATE users"), ("delete", "UPDATE users"), ("restore", "UPDATE users"), ("delete", "DELETE counter")],
)
def test_every_other_write_runs_in_the_same_order(logged_users, log, operation, statement):
    if statement == "DELETE counter":
        accessor: Any = ModelAccessor(Counter, "counters", storage=logged_users.storage)
        accessor._listeners = logged_users._listeners
        accessor.commit_listeners = logged_users.commit_listeners
        record = accessor.insert(Counter())
    else:
        accessor = logged_users
        record = accessor.insert(ana())
    if operation == "restore":
        accessor.delete(record.id)
    log.clear()
    if operation == "update":
        accessor.update(record.id, name="Anna")
    else:
        getattr(accessor, operation)(record.id)
    in_order = [
        "Wrapping opens",
        "ZedFirst",
        "first decorator",
        "second decorator",
        "Alpha",
        "Beta",
        "AtLast",
        "Wrapping closes",
    ]
    assert log == [
        "BEGIN",
        *(f"before_{operation}: {who}" for who in in_order),
        statement,
        "INSERT auditlog",
        *(f"after_{operation}: {who}" for who in in_order),
        "COMMIT",
        *(f"after_commit: {who}" for who in ("listener", "Alpha", "Beta")),
    ]


def test_a_batch_runs_its_hooks_record_by_record_and_writes_all_rows_at_once(logged_users, log):
    logged_users.insert_many([ana(), ben()])
    assert [entry for entry in log if entry.split()[0].isupper() or "Alpha" in entry] == [
        "BEGIN",
        "before_insert: Alpha",
        "before_insert: Alpha",
        "INSERT users",
        "INSERT users",
        "INSERT auditlog",
        "after_insert: Alpha",
        "after_insert: Alpha",
        "COMMIT",
        "after_commit: Alpha",
    ]


def test_a_batch_learns_its_keys_without_a_select_and_writes_its_trail_in_one_statement(storage, users):
    statements: list[str] = []

    @event.listens_for(storage.engine, "before_cursor_execute")
    def note(connection, cursor, statement, parameters, context, executemany) -> None:
        statements.append(" ".join(statement.split()[:3]).replace("`", ""))

    stored = users.insert_many([ana(email=f"{number}@example.org") for number in range(200)])
    assert len({user.id for user in stored}) == 200
    assert [statement for statement in statements if statement.startswith("SELECT")] == []
    assert statements.count("INSERT INTO auditlog") == 1


# Saves and updates


def test_save_inserts_what_is_new_and_updates_what_is_stored(storage, users):
    user = users.save(ana())
    user.name = "Anna"
    assert users.save(user).name == "Anna"
    users.save(User(id=user.id, name="Anne", email="ana@example.com"))
    users.save(User(id=77, name="Ben", email="ben@example.com"))
    assert [(user.id, user.name) for user in users.all()] == [(user.id, "Anne"), (77, "Ben")]
    assert history(storage) == [
        ("users", "create", user.id),
        ("users", "update", user.id),
        ("users", "update", user.id),
        ("users", "create", 77),
    ]


def test_a_save_that_changes_nothing_writes_nothing(storage):
    samples = ModelAccessor(Sample, "samples", storage=storage)
    sample = samples.insert(Sample(price=Decimal("1.50"), settings={"a": [1, 2.0]}))
    assert samples.save(samples.get(sample.id)) == sample
    samples.save(Sample.model_validate(sample.model_dump()))
    samples.save(Sample(**{**sample.model_dump(), "price": Decimal("1.5"), "number": "0"}))
    samples.update(sample.id, price=Decimal("1.500"), settings={"a": [1, 2.0]})
    assert history(storage) == [("samples", "create", sample.id)]


def test_a_save_that_changes_nothing_tells_nobody(sqlite_users):
    user = sqlite_users.insert(ana())
    told: list[Change] = []
    sqlite_users.after_commit()(told.extend)
    sqlite_users.save(user)
    sqlite_users.update(user.id, name="Ana")
    assert told == []


def test_update_changes_the_given_fields_only(storage, users):
    user = users.insert(ana(age=30))
    # Another writer's change to another field, which this instance has not seen.
    users.update(user.id, age=31)
    user.age = 99
    updated = users.update(user.id, name="Anna")
    assert (updated.name, updated.age) == ("Anna", 31)
    assert trail(storage)[-1].before == {**trail(storage)[-1].after, "name": "Ana"}


def test_update_of_no_record_answers_none(users):
    assert users.update(1, name="Ana") is None
    user = users.insert(ana())
    users.delete(user.id)
    assert users.update(user.id, name="Anna") is None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"nmae": "Anna"}, "no field nmae; the fields are id, name, email, age, deleted_at"),
        ({"deleted_at": None}, "deleted_at cannot be updated; use delete or restore"),
    ],
)
def test_update_refuses_fields_that_it_cannot_change(sqlite_users, fields, message):
    user = sqlite_users.insert(ana())
    with pytest.raises(InvalidInput, match=message):
        sqlite_users.update(user.id, **fields)


def test_update_refuses_the_key(sqlite_storage):
    devices = ModelAccessor(Device, "devices", storage=sqlite_storage)
    devices.insert(Device(serial="A1"))
    with pytest.raises(InvalidInput, match="serial cannot be updated; a key never changes"):
        devices.update("A1", serial="B2")


def test_save_of_an_expired_instance_updates_its_record(storage, users):
    with storage.transaction() as session:
        user = users.insert(ana())
        session.expire(user)
        user.name = "Anna"
        users.save(user)
    assert [(user.name, user.email) for user in users.all()] == [("Anna", "ana@example.com")]
    assert history(storage) == [("users", "create", user.id), ("users", "update", user.id)]


def test_a_save_of_an_old_copy_is_audited_against_the_stored_row(storage, users):
    old = users.insert(ana(age=30))
    users.update(old.id, age=31)
    old.name = "Anna"
    users.save(old)
    stored = trail(storage)[-1]
    assert (stored.before["age"], stored.after["age"]) == (31, 30)
    assert users.get(old.id).age == 30


def test_save_of_what_the_transaction_loaded_knows_the_stored_row_and_the_actor(storage, users):
    user = users.insert(ana())
    seen: list[tuple[str, str, str]] = []

    @users.before_update()
    def note(instance: User, before: dict[str, Any], actor: str) -> None:
        seen.append((actor, before["name"], instance.name))

    with storage.transaction():
        loaded = users.get(user.id)
        loaded.name = "Anna"
        users.save(loaded, actor="bob")
    assert seen == [("bob", "Ana", "Anna")]
    last = trail(storage)[-1]
    assert (last.actor, last.before["name"], last.after["name"]) == ("bob", "Ana", "Anna")


# The chain


def test_each_before_is_the_previous_after(storage):
    samples = ModelAccessor(Sample, "samples", storage=storage)
    sample = samples.insert(Sample(text="a", raw=b"\xff", price=Decimal("0.10")))
    sample.text = "b"
    samples.save(sample)
    samples.update(sample.id, ratio=0.1, settings={"é": None})
    with storage.transaction() as session:
        loaded = samples.get(sample.id)
        loaded.flag = True
        samples.save(loaded)
        loaded.number = 7
        session.flush()
    samples.delete(sample.id)
    rows = trail(storage)
    assert [row.operation for row in rows] == ["create", "update", "update", "update", "update", "delete"]
    assert rows[0].before is None
    assert rows[-1].after is None
    for earlier, later in pairwise(rows):
        assert later.before == earlier.after


def test_an_absent_snapshot_is_null_in_the_database(storage):
    counters = ModelAccessor(Counter, "counters", storage=storage)
    counters.delete(counters.insert(Counter()).id)
    with storage.use_session() as session:
        assert session.exec(select(AuditLog.operation).where(text_of("before").is_(None))).all() == ["create"]
        assert session.exec(select(AuditLog.operation).where(text_of("after").is_(None))).all() == ["delete"]


def text_of(name: str) -> Any:
    """The column as the database has it, without the type that could take the JSON text `null` for NULL."""
    return column(name, Text)


# Relationships


def test_records_that_come_with_a_relationship_are_stored_and_audited(storage):
    teams = ModelAccessor(Team, "teams", storage=storage)
    members = ModelAccessor(Member, "members", storage=storage)
    assert members.storage is storage  # known from its first use
    team = teams.insert(Team(name="red", members=[Member(name="m1"), Member(name="m2")]))
    assert history(storage) == [("teams", "create", team.id), ("members", "create", 1), ("members", "create", 2)]

    team.name = "blue"
    teams.save(team)
    assert [member.team_id for member in members.all()] == [team.id, team.id]

    teams.delete(team.id)
    assert [member.team_id for member in members.all()] == [None, None]
    last = trail(storage)[-3:]
    assert {(row.component, row.operation, row.record_id) for row in last} == {
        ("members", "update", 1),
        ("members", "update", 2),
        ("teams", "delete", team.id),
    }


def test_saving_a_detached_record_keeps_its_relationships(storage):
    teams = ModelAccessor(Team, "teams", storage=storage)
    members = ModelAccessor(Member, "members", storage=storage)
    team = teams.insert(Team(name="red", members=[Member(name="m1")]))
    teams.save(Team(id=team.id, name="blue"))
    members.save(Member(id=1, name="renamed", team_id=team.id))
    assert [(member.name, member.team_id) for member in members.find(col(Member.team_id) == team.id)] == [
        ("renamed", team.id)
    ]
