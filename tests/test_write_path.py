"""The one path of every write: its order, what a refusal leaves behind, all or none, the chain of snapshots."""

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
    ConstraintViolation,
    InvalidInput,
    InvalidRecord,
    ModelAccessor,
    Storage,
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
