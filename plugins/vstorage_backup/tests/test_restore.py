"""Restoring: the backup's rows replace ours, all of them or none, and the report says what that means."""

import hashlib
import sqlite3
import threading
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from models import Counter, Device, Team, User
from sqlalchemy import Column, ForeignKey, Table
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from vstorage_core import (
    ConfigurationError,
    ImportInProgress,
    ImportRefused,
    ModelAccessor,
    StorageBusy,
    StorageUnavailable,
    TransactionError,
    hookimpl,
)


def users_of(storage):
    return ModelAccessor(User, "users", storage=storage)


def user(name):
    return User(name=name, email=f"{name}@x")


class Circular(SQLModel, registry=registry()):
    """Base of models that refer to each other."""


class Folder(Circular, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str
    parent_id: int | None = Field(default=None, foreign_key="folder.id")
    owner_id: int | None = Field(default=None, foreign_key="owner.id")


class Owner(Circular, table=True):
    id: int | None = Field(default=None, primary_key=True)
    home_id: int = Field(foreign_key="folder.id")


# What it does


def test_a_restore_brings_the_rows_of_the_backup_back(any_machine, backup, content):
    users = users_of(any_machine)
    ana, ben = users.insert_many([user("ana"), user("ben")])
    any_machine.export("backup", backup)
    stored = content(any_machine)
    users.update(ana.id, name="changed")
    users.delete(ben.id)
    users.insert(user("cleo"))

    report = any_machine.import_("restore", backup)

    assert report.restored
    assert content(any_machine) == stored


def test_the_report_tells_what_changed_and_what_was_lost(any_machine, backup):
    users = users_of(any_machine)
    users.insert_many([user("ana"), user("ben")])
    any_machine.export("backup", backup)
    users.insert_many([user("cleo"), user("dora"), user("eve")])

    report = any_machine.import_("restore", backup)

    assert report.tables["users"].model_dump() == {"rows_before": 5, "rows_after": 2, "rows_lost": 3}
    assert report.changes_since_backup == 3
    assert report.sha256 == hashlib.sha256(backup.read_bytes()).hexdigest()
    assert report.size_bytes == backup.stat().st_size
    assert timedelta(0) < datetime.now(timezone.utc) - report.backup_taken_at < timedelta(minutes=1)
    assert 0 < report.backup_age_seconds < 60
    assert report.schema_differences == report.foreign_key_violations == report.invalid_values == []
    assert report.audit_rows_added == 0


def test_a_dry_run_tells_the_same_and_changes_nothing(any_machine, backup, content, trail):
    users = users_of(any_machine)
    users.insert(user("ana"))
    any_machine.export("backup", backup)
    users.insert(user("ben"))
    before = content(any_machine), trail(any_machine)

    dry = any_machine.import_("restore", backup, dry_run=True)

    assert not dry.restored
    assert dry.refused_because is None
    assert (content(any_machine), trail(any_machine)) == before
    told = {"tables", "sha256", "changes_since_backup", "audit_rows_added", "schema_differences"}
    assert dry.model_dump(include=told) == any_machine.import_("restore", backup).model_dump(include=told)


def test_keys_go_on_after_those_of_the_backup_and_after_those_of_the_database(any_machine, backup):
    counters = ModelAccessor(Counter, "counters", storage=any_machine)
    deleted_before = counters.insert_many([Counter(), Counter(), Counter()])[-1].id
    counters.delete(deleted_before)
    any_machine.export("backup", backup)
    any_machine.import_("restore", backup)
    assert (deleted_after := counters.insert(Counter()).id) > deleted_before
    any_machine.import_("restore", backup)
    assert counters.insert(Counter()).id > deleted_after


@pytest.mark.parametrize(
    ("source", "target"),
    [("sqlite", "postgresql"), ("postgresql", "mariadb"), ("mariadb", "sqlite"), ("sqlite", "memory")],
)
def test_keys_that_were_deleted_before_the_backup_are_not_given_again_elsewhere(
    source, target, make_database, open_machine, backup
):
    counters = ModelAccessor(Counter, "counters", storage=open_machine(make_database(source)))
    last = counters.insert_many([Counter(), Counter(), Counter()])[-1].id
    counters.delete(last)
    counters.storage.export("backup", backup)
    other = open_machine(make_database(target))
    other.import_("restore", backup)
    assert ModelAccessor(Counter, "counters", storage=other).insert(Counter()).id > last


def test_plugins_are_told_that_the_database_was_replaced(make_database, open_machine, backup):
    told = []

    class Cache:
        @hookimpl
        def vstorage_after_replace(self, storage):
            told.append(users_of(storage).count())

    machine = open_machine(make_database("sqlite"), plugins=[Cache()])
    machine.export("backup", backup)
    users_of(machine).insert(user("ana"))
    machine.import_("restore", backup, dry_run=True)
    assert told == []
    machine.import_("restore", backup)
    assert told == [0]


def test_references_to_the_table_itself_and_in_circles_are_restored(any_machine, backup, content):
    folders = ModelAccessor(Folder, "folders", storage=any_machine)
    owners = ModelAccessor(Owner, "owners", storage=any_machine)
    any_machine.create_tables()
    child = folders.insert(Folder(name="child"))
    parent = folders.insert(Folder(name="parent"))
    owner = owners.insert(Owner(home_id=parent.id))
    folders.update(child.id, parent_id=parent.id, owner_id=owner.id)
    stored = content(any_machine)
    any_machine.export("backup", backup)
    folders.update(child.id, parent_id=None, owner_id=None)

    any_machine.import_("restore", backup)

    assert content(any_machine) == stored


class Keyless(SQLModel, registry=registry()):
    """Base of models beside a table that has no key."""


class Page(Keyless, table=True):
    id: int | None = Field(default=None, primary_key=True)
    title: str = ""


link = Table("link", Keyless.metadata, Column("source", ForeignKey("page.id")), Column("target", ForeignKey("page.id")))


def test_a_table_without_a_key_is_restored(any_machine, backup, content):
    pages = ModelAccessor(Page, "pages", storage=any_machine)
    any_machine.register(pages)
    any_machine.create_tables()
    first, second = pages.insert_many([Page(), Page()])
    with any_machine.transaction() as session:
        session.execute(link.insert(), [{"source": first.id, "target": second.id}])
    stored = content(any_machine)
    any_machine.export("backup", backup)
    with any_machine.transaction() as session:
        session.execute(link.delete())
    any_machine.import_("restore", backup)
    assert content(any_machine) == stored


def test_restoring_does_not_delete_what_other_tables_have(machine, backup):
    with machine.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE note (text, user_id REFERENCES users (id) ON DELETE CASCADE)")
    ana = users_of(machine).insert(user("ana"))
    with machine.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO note VALUES ('mine', ?)", (ana.id,))
    machine.export("backup", backup)

    report = machine.import_("restore", backup)

    assert report.tables_left_alone == ["note"]
    with machine.snapshot() as connection:
        assert connection.exec_driver_sql("SELECT text FROM note").scalars().all() == ["mine"]


def test_a_table_of_others_that_needs_a_record_which_the_backup_lacks_stops_the_restore(machine, backup, content):
    machine.export("backup", backup)
    with machine.engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE note (text, user_id REFERENCES users (id))")
    ana = users_of(machine).insert(user("ana"))
    with machine.engine.begin() as connection:
        connection.exec_driver_sql("INSERT INTO note VALUES ('mine', ?)", (ana.id,))
    before = content(machine)
    with pytest.raises(ImportRefused, match="table note, which no model describes, refers to records"):
        machine.import_("restore", backup)
    assert content(machine) == before


# Differences of the schema. FAULTS 5: the original restored any SQLite file.


def change(path, *statements):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)


DIFFERENCES = {
    "users.age": ("ALTER TABLE users DROP COLUMN age", "its records get no value"),
    "device.label": ("ALTER TABLE device DROP COLUMN label", "its records get the value ''"),
    "counter": ("DROP TABLE counter", "restoring it empties the table"),
    "users.badge": ("ALTER TABLE users ADD COLUMN badge", "its values are not restored"),
    "robot": ("CREATE TABLE robot (id)", "its records are not restored"),
}


@pytest.mark.parametrize(
    ("engine", "name"),
    [
        *(("sqlite", name) for name in DIFFERENCES),
        *((engine, name) for engine in ("postgresql", "mariadb") for name in ("device.label", "counter")),
    ],
)
def test_another_schema_is_refused_until_the_difference_is_asked_for_by_name(
    engine, name, make_database, open_machine, backup
):
    machine = open_machine(make_database(engine))
    users = users_of(machine)
    devices = ModelAccessor(Device, "devices", storage=machine)
    counters = ModelAccessor(Counter, "counters", storage=machine)
    for accessor in (users, devices):
        machine.register(accessor)
    devices.insert(Device(serial="a", label="b"))
    users.insert(User(name="ana", email="ana@x", age=5))
    counters.insert(Counter())
    machine.export("backup", backup)
    statement, difference = DIFFERENCES[name]
    change(backup, statement)

    [found] = machine.import_("restore", backup, dry_run=True).schema_differences
    assert (found.name, found.accepted) == (name, False)
    assert found.difference.endswith(difference)
    with pytest.raises(ImportRefused, match=f"allow {name}") as caught:
        machine.import_("restore", backup)
    assert caught.value.details[0]["name"] == name
    report = machine.import_("restore", backup, allow=[name])
    assert report.restored
    assert [found.accepted for found in report.schema_differences] == [True]
    assert users.all()[0].age == (None if name == "users.age" else 5)
    assert devices.all()[0].label == ("" if name == "device.label" else "b")
    assert counters.count() == (0 if name == "counter" else 1)


def test_a_column_that_needs_a_value_which_nobody_knows_cannot_be_allowed(machine, backup):
    machine.export("backup", backup)
    change(backup, "ALTER TABLE users DROP COLUMN name")
    with pytest.raises(ImportRefused, match=r"users\.name, which every record needs"):
        machine.import_("restore", backup, allow=["users.name"])


def test_a_database_without_tables_says_so(machine, backup):
    machine.export("backup", backup)
    with machine.engine.begin() as connection:
        for table in reversed(machine.tables()):
            table.drop(connection)
    with pytest.raises(ConfigurationError, match="no tables yet"):
        machine.import_("restore", backup)


# Safety copies


def test_what_was_replaced_is_kept_as_a_backup_and_named(machine, backup, content, tmp_path):
    machine.export("backup", backup)
    users_of(machine).insert(user("ana"))
    replaced = content(machine)
    report = machine.import_("restore", backup)
    [copy] = tmp_path.glob("*-backups/*")
    assert copy.name == report.safety_copy
    machine.import_("restore", copy)
    assert content(machine) == replaced


def test_a_restore_that_fails_keeps_no_safety_copy(machine, backup, tmp_path, content):
    with machine.engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER stop BEFORE INSERT ON users BEGIN SELECT RAISE(ABORT, 'no more users'); END"
        )
    ModelAccessor(Team, "teams", storage=machine).insert(Team(name="a"))
    machine.export("backup", backup)
    change(backup, "INSERT INTO users (name, email) VALUES ('ana', 'ana@x')")
    before = content(machine)
    with pytest.raises(ImportRefused, match="does not take the backup's records of users: no more users"):
        machine.import_("restore", backup)
    assert content(machine) == before
    assert list(tmp_path.glob("*-backups/*")) == []
    with machine.engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER stop")
    assert machine.import_("restore", backup).restored


# Others at the same time


def test_a_restore_waits_for_an_open_writer_and_gives_up_cleanly(make_database, open_machine, backup, content):
    # FAULTS 1: the original answered 200 and left a malformed file.
    url = make_database("sqlite")
    machine = open_machine(url, engine={"timeout_seconds": 0.2})
    machine.export("backup", backup)
    other = open_machine(url)
    with other.transaction():
        users_of(other).insert(user("ana"))
        with pytest.raises(StorageBusy):
            machine.import_("restore", backup)
    assert [record.name for record in users_of(machine).all()] == ["ana"]
    assert machine.import_("restore", backup).restored
    assert content(machine)["users"] == []


def test_a_writer_that_waits_for_a_restore_is_not_lost(any_machine, backup, blocked):
    users = users_of(any_machine)
    any_machine.export("backup", backup)
    stream = blocked(backup.read_bytes())
    restoring = threading.Thread(target=any_machine.import_, args=["restore", stream])
    restoring.start()
    assert stream.reached.wait(10)
    users.insert(user("before"))
    stream.go_on.set()
    restoring.join()
    users.insert(user("after"))
    assert [record.name for record in users.all()] == ["after"]


def test_readers_see_the_old_rows_until_they_look_again(machine, backup, content):
    machine.export("backup", backup)
    users_of(machine).insert(user("ana"))
    count = "SELECT count(*) FROM users"
    with machine.snapshot() as connection:
        assert connection.exec_driver_sql(count).scalar() == 1
        restoring = threading.Thread(target=machine.import_, args=["restore", backup])
        restoring.start()
        restoring.join()
        assert connection.exec_driver_sql(count).scalar() == 1
    with machine.snapshot() as connection:
        assert connection.exec_driver_sql(count).scalar() == 0


def test_a_second_restore_at_the_same_time_is_refused(any_machine, backup, blocked):
    any_machine.export("backup", backup)
    stream = blocked(backup.read_bytes())
    reports = []
    first = threading.Thread(target=lambda: reports.append(any_machine.import_("restore", stream)))
    first.start()
    assert stream.reached.wait(10)
    with pytest.raises(ImportInProgress, match="another restore of this database is running"):
        any_machine.import_("restore", backup)
    assert any_machine.import_("restore", backup, dry_run=True).refused_because is None
    stream.go_on.set()
    first.join()
    assert reports[0].restored
    assert any_machine.import_("restore", backup).restored


def test_a_restore_inside_a_transaction_is_refused(any_machine, backup):
    any_machine.export("backup", backup)
    with any_machine.transaction(), pytest.raises(TransactionError, match="cannot run inside a session"):
        any_machine.import_("restore", backup)


# What stays


def test_indexes_triggers_and_settings_of_the_database_stay(machine, backup):
    def schema():
        with machine.snapshot() as connection:
            return connection.exec_driver_sql("SELECT type, name, sql FROM sqlite_master ORDER BY name").all()

    with machine.engine.begin() as connection:
        connection.exec_driver_sql("CREATE INDEX mine ON users (age)")
        connection.exec_driver_sql("CREATE TABLE log (name)")
        connection.exec_driver_sql("CREATE TRIGGER t AFTER INSERT ON users BEGIN INSERT INTO log VALUES (1); END")
    users_of(machine).insert(user("ana"))
    machine.export("backup", backup)
    before = schema()
    machine.import_("restore", backup)
    assert schema() == before
    with machine.snapshot() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    with machine.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        assert "upload" not in [row[1] for row in connection.exec_driver_sql("PRAGMA database_list")]


def test_the_database_file_keeps_its_mode_and_its_place(machine, backup):
    # FAULTS 6: the original's became 0600.
    database = Path(machine.engine.url.database)
    database.chmod(0o664)
    before = database.stat()
    machine.export("backup", backup)
    machine.import_("restore", backup)
    after = database.stat()
    assert (after.st_mode, after.st_ino, after.st_uid) == (before.st_mode, before.st_ino, before.st_uid)


def test_nothing_of_the_restore_is_left_behind(machine, backup, tmp_path):
    machine.export("backup", backup)
    machine.import_("restore", backup)
    machine.import_("restore", backup, dry_run=True)
    database = Path(machine.engine.url.database)
    machine.close()
    folder = tmp_path / f"{database.name}-backups"
    assert set(tmp_path.iterdir()) == {backup, database, folder}
    assert len(list(folder.iterdir())) == 1


def test_a_restore_that_would_fill_the_disk_is_refused(make_database, open_machine, backup, temporary_files):
    url = make_database("sqlite")
    open_machine(url).export("backup", backup)
    full = open_machine(url, min_free_bytes=1 << 60)
    with pytest.raises(StorageUnavailable, match="the restore needs"):
        full.import_("restore", backup)
    assert temporary_files() == []


def test_checking_that_takes_too_long_is_given_up(make_database, open_machine, backup):
    url = make_database("sqlite")
    machine = open_machine(url)
    users_of(machine).insert_many([user(f"user{number}") for number in range(2000)])
    machine.export("backup", backup)
    hasty = open_machine(url, max_check_seconds=0.000001)
    with pytest.raises(ImportRefused, match=r"takes longer than 1e-06 s.*backup\.max_check_seconds"):
        hasty.import_("restore", backup)
