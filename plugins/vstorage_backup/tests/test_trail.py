"""The audit trail through restores, also of files that the original wrote."""

import shutil
import sqlite3
from contextlib import closing
from datetime import datetime
from pathlib import Path

from models import User
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel, select

from vstorage_core import AuditLog, ModelAccessor, acting_as


def users_of(storage):
    return ModelAccessor(User, "users", storage=storage)


def user(name):
    return User(name=name, email=f"{name}@x")


def audit_rows(storage):
    with storage.use_session() as session:
        return session.exec(select(AuditLog).order_by(AuditLog.id)).all()


class Old(SQLModel, registry=registry()):
    """Base of the models with which the original's file was written."""


class OldUser(Old, table=True):
    __tablename__ = "user"

    id: int | None = Field(default=None, primary_key=True)
    name: str
    email: str
    deleted_at: datetime | None = Field(default=None, index=True)


class OldProduct(Old, table=True):
    __tablename__ = "product"

    id: int | None = Field(default=None, primary_key=True)
    name: str
    price: float
    released_at: datetime | None = None


def test_the_restore_is_in_the_audit_trail_with_who_and_what(any_machine, backup):
    users_of(any_machine).insert(user("ana"))
    any_machine.export("backup", backup)
    users_of(any_machine).insert(user("ben"))
    with acting_as("field engineer", reason="wrong recipes"):
        report = any_machine.import_("restore", backup)
    row = audit_rows(any_machine)[-1]
    assert (row.component, row.operation, row.record_id) == ("db", "replace", report.sha256)
    assert (row.actor, row.reason) == ("field engineer", "wrong recipes")
    assert row.before["rows"]["users"] == 2
    assert row.after["rows"]["users"] == 1
    assert row.after["rows_lost"] == {"users": 1}
    assert datetime.fromisoformat(row.after["backup_taken_at"].replace("Z", "+00:00")) == report.backup_taken_at


def test_the_trail_of_the_replaced_database_stays(any_machine, backup, trail):
    users = users_of(any_machine)
    users.insert(user("ana"))
    any_machine.export("backup", backup)
    users.insert(user("ben"))
    before = trail(any_machine)
    any_machine.import_("restore", backup)
    assert trail(any_machine)[:-1] == before


def test_the_trail_of_another_machine_comes_along_once(any_machine, machine, backup):
    users_of(machine).insert(user("ana"), actor="other machine")
    machine.export("backup", backup)
    users_of(any_machine).insert(user("ben"), actor="this machine")

    reports = [any_machine.import_("restore", backup, actor="engineer") for _ in range(2)]

    assert [report.audit_rows_added for report in reports] == [1, 0]
    actors = [row.actor for row in audit_rows(any_machine)]
    assert actors == ["this machine", "other machine", "engineer", "engineer"]


def test_rows_of_one_moment_are_told_apart(any_machine, machine, backup):
    # insert_many gives all its rows the same time.
    users = users_of(machine)
    users.insert_many([user(f"user{number}") for number in range(2500)])
    machine.export("backup", backup)
    assert any_machine.import_("restore", backup).audit_rows_added == 2500
    users.insert_many([user(f"more{number}") for number in range(10)])
    machine.export("backup", backup)
    assert any_machine.import_("restore", backup).audit_rows_added == 10


def test_two_machines_that_began_as_one_take_over_what_the_other_one_did_since(any_machine, machine, backup):
    mine, theirs = users_of(any_machine), users_of(machine)
    theirs.insert_many([user(f"user{number}") for number in range(20)])
    machine.export("backup", backup)
    any_machine.import_("restore", backup)
    mine.insert_many([user(f"mine{number}") for number in range(3)])
    # Other events under the ids that ours have.
    theirs.insert_many([user(f"theirs{number}") for number in range(5)])
    machine.export("backup", backup)
    assert any_machine.import_("restore", backup).audit_rows_added == 5
    # By now they are known under other ids.
    assert any_machine.import_("restore", backup).audit_rows_added == 0
    assert len([row for row in audit_rows(any_machine) if row.component == "users"]) == 28


def test_an_empty_trail_takes_the_rows_with_their_ids(any_machine, machine, backup, trail):
    users = users_of(machine)
    first = users.insert(user("ana"))
    users.update(first.id, name="anna")
    machine.export("backup", backup)
    any_machine.import_("restore", backup)
    assert trail(any_machine)[:2] == trail(machine)


ORIGINAL = Path(__file__).parents[3] / "tests" / "data" / "original-0.5.1.sqlite"


def test_a_backup_of_the_original_is_restored_with_its_trail(make_database, open_machine, tmp_path):
    path = Path(shutil.copy(ORIGINAL, tmp_path / "original.sqlite"))
    with closing(sqlite3.connect(path)) as connection:
        names = [row[0] for row in connection.execute("SELECT name FROM user ORDER BY id")]
        events = connection.execute("SELECT count(*) FROM auditlog").fetchone()[0]
    for engine in ("sqlite", "postgresql", "mariadb"):
        machine = open_machine(make_database(engine))
        users = ModelAccessor(OldUser, "users", storage=machine)
        machine.register(users)
        machine.register(ModelAccessor(OldProduct, "products", storage=machine))
        machine.create_tables()
        with closing(sqlite3.connect(path)) as connection:
            others = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        missing = [table.name for table in machine.tables() if table.name not in others]
        report = machine.import_("restore", path, allow=missing)
        assert report.restored
        assert [record.name for record in users.all(include_deleted=True)] == names
        assert report.audit_rows_added == events
        created = audit_rows(machine)[0]
        assert created.operation == "create"
        assert created.before is None
        assert created.timestamp.tzinfo is not None


def test_a_database_of_the_original_takes_its_own_backup_back(open_machine, tmp_path, backup):
    path = Path(shutil.copy(ORIGINAL, tmp_path / "machine.db"))
    machine = open_machine(f"sqlite:///{path}")
    users = ModelAccessor(OldUser, "users", storage=machine)
    machine.register(users)
    machine.register(ModelAccessor(OldProduct, "products", storage=machine))
    before = users.all(include_deleted=True)
    machine.export("backup", backup)
    users.insert(OldUser(name="new", email="new@x"))
    report = machine.import_("restore", backup)
    assert users.all(include_deleted=True) == before
    assert report.audit_rows_added == 0


def test_a_backup_of_the_original_adds_nothing_to_the_database_that_it_became(open_machine, tmp_path):
    path = Path(shutil.copy(ORIGINAL, tmp_path / "machine.db"))
    machine = open_machine(f"sqlite:///{path}")
    machine.register(ModelAccessor(OldUser, "users", storage=machine))
    machine.register(ModelAccessor(OldProduct, "products", storage=machine))
    names = [table.name for table in machine.tables() if table.name not in ("user", "product", "auditlog")]
    assert machine.import_("restore", ORIGINAL, allow=names).audit_rows_added == 0
