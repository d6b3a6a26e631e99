"""Restoring writes what differs: rows that the machine has already stay where they are."""

import io
import os
import random
import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from models import Counter, Device, Member, Team, User
from sqlalchemy import String
from sqlalchemy.dialects.sqlite import VARCHAR
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from vstorage_backup.settings import places_of
from vstorage_core import ImportRefused, ModelAccessor
from vstorage_core.audit import AUDIT_TABLE


class Plain(SQLModel, registry=registry()):
    """Base of models that only these tests know."""


class Part(Plain, table=True):
    id: int | None = Field(default=None, primary_key=True)
    code: str = Field(sa_type=String().with_variant(VARCHAR(collation="NOCASE"), "sqlite"))
    weight: float | None = None
    bin: int | None = Field(default=None, unique=True)


class Label(Plain, table=True):
    name: str = Field(primary_key=True)
    text: str = ""


def accessor(model, storage):
    return ModelAccessor(model, f"{model.__name__.lower()}s", storage=storage)


def file_of(machine):
    return Path(machine.engine.url.database)


def execute(path, *statements):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        for statement in statements:
            connection.execute(statement)


def letter_for_letter(path, machine):
    """All rows of the models' tables as they are stored."""
    found = {}
    with closing(sqlite3.connect(path)) as connection:
        for table in machine.tables():
            if table is not AUDIT_TABLE:
                columns = ", ".join(f'quote("{column.name}")' for column in table.columns)
                found[table.name] = sorted(connection.execute(f'SELECT {columns} FROM "{table.name}"'))
    return found


def found_by_sqlite(path):
    with closing(sqlite3.connect(path)) as connection:
        # The last of them tells how many there are.
        return [found for (found,) in connection.execute("PRAGMA integrity_check")][-1:]


def lose_entries(path, index):
    with closing(sqlite3.connect(path)) as connection:
        [page_size] = connection.execute("PRAGMA page_size").fetchone()
        [root] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", [index]).fetchone()
    with path.open("rb+") as file:
        file.seek((root - 1) * page_size + 3)
        file.write(b"\0\0")  # number of cells


def test_only_what_differs_is_written(machine, backup):
    users, devices = accessor(User, machine), accessor(Device, machine)
    users.insert_many(User(name=f"user {number}", email=f"{number}@x") for number in range(10_000))
    devices.insert_many(Device(serial=f"device {number}") for number in range(10_000))
    machine.export("backup", backup)
    users.delete(7)
    users.update(8, name="another")
    users.insert(User(name="new", email="new@x"))
    devices.delete("device 5")
    devices.save(Device(serial="device 6", label="another"))

    execute(file_of(machine), "PRAGMA wal_checkpoint(TRUNCATE)")
    report = machine.import_("restore", backup)

    log = Path(f"{file_of(machine)}-wal")
    assert 0 < log.stat().st_size < 200_000 < backup.stat().st_size
    assert letter_for_letter(file_of(machine), machine) == letter_for_letter(backup, machine)
    assert report.tables["users"].model_dump() == {"rows_before": 10_001, "rows_after": 10_000, "rows_lost": 1}


@pytest.mark.parametrize("seed", range(8))
def test_what_is_restored_is_the_file_letter_for_letter(seed, machine, backup, tmp_path):
    chance = random.Random(seed)
    parts, labels = accessor(Part, machine), accessor(Label, machine)
    machine.create_tables()
    parts.insert_many(
        Part(code=chance.choice("aAbB"), weight=chance.choice([None, 0.0, 1.5]), bin=n) for n in range(60)
    )
    labels.insert_many(Label(name=f"{n}", text=chance.choice("xX")) for n in range(9))
    machine.export("backup", backup)

    def shuffle(path):
        numbers = [chance.randrange(1, 70) for _ in range(8)]
        execute(
            path,
            *(f"DELETE FROM part WHERE id = {n}" for n in numbers[:2]),
            *(f"UPDATE part SET code = upper(code) WHERE id = {n}" for n in numbers[2:4]),
            *(f"UPDATE part SET weight = NULL WHERE id = {n}" for n in numbers[4:6]),
            # A unique value goes from one record to another.
            f"UPDATE part SET bin = -1 WHERE id = {numbers[6]}",
            f"UPDATE part SET bin = {numbers[6] - 1} WHERE id = {numbers[7]} AND {numbers[6]} <> {numbers[7]}",
            f"INSERT INTO part (code, bin) VALUES ('new', {1000 + numbers[0]})",
            f"UPDATE label SET text = upper(text) WHERE name < '{chance.randrange(9)}'",
            f"DELETE FROM label WHERE name = '{chance.randrange(9)}'",
            f"UPDATE label SET name = 'new {chance.randrange(9)}' WHERE name = '{chance.randrange(9)}'",
        )

    shuffle(file_of(machine))
    shuffle(backup)
    wanted = letter_for_letter(backup, machine)
    before = letter_for_letter(file_of(machine), machine)

    report = machine.import_("restore", backup)

    assert letter_for_letter(file_of(machine), machine) == wanted
    kept = {row[0] for row in wanted["part"]}
    assert report.tables["part"].rows_lost == len([row for row in before["part"] if row[0] not in kept])
    assert found_by_sqlite(file_of(machine)) == ["ok"]
    assert letter_for_letter(tmp_path / f"{file_of(machine).name}-backups" / report.safety_copy, machine) == before


def test_a_text_that_differs_in_its_case_alone_is_restored(machine, backup):
    parts = accessor(Part, machine)
    machine.create_tables()
    part = parts.insert(Part(code="a"))
    machine.export("backup", backup)
    parts.update(part.id, code="A")
    machine.import_("restore", backup)
    assert parts.get(part.id).code == "a"


def test_a_number_is_not_the_text_that_sqlite_takes_for_it(machine, backup):
    parts = accessor(Part, machine)
    machine.create_tables()
    parts.insert(Part(code="01"))
    machine.export("backup", backup)
    execute(
        backup,
        "DROP TABLE part",
        "CREATE TABLE part (id INTEGER PRIMARY KEY, code INTEGER, weight FLOAT, bin INTEGER)",
        "INSERT INTO part VALUES (1, 1, NULL, NULL)",
    )
    with pytest.raises(ImportRefused, match=r"part\.code holds a whole number, not text"):
        machine.import_("restore", backup)


def test_a_key_that_no_model_would_have_goes(machine, backup):
    accessor(Label, machine)
    execute(file_of(machine), "CREATE TABLE label (name VARCHAR PRIMARY KEY, text VARCHAR)")
    execute(file_of(machine), "INSERT INTO label VALUES ('a', 'x')")
    machine.export("backup", backup)
    execute(file_of(machine), "INSERT INTO label VALUES (NULL, 'y')")
    report = machine.import_("restore", backup)
    assert report.tables["label"].rows_lost == 1
    assert letter_for_letter(file_of(machine), machine) == letter_for_letter(backup, machine)


def test_triggers_of_the_application_take_nothing_that_stays(machine, backup):
    teams, members = accessor(Team, machine), accessor(Member, machine)
    teams.insert_many([Team(name="a"), Team(name="b")])
    members.insert(Member(name="ana", team_id=1))
    machine.export("backup", backup)
    teams.update(1, name="renamed")
    execute(
        file_of(machine),
        "CREATE TRIGGER leave AFTER DELETE ON team BEGIN DELETE FROM member WHERE team_id = OLD.id; END",
    )
    machine.import_("restore", backup)
    assert [team.name for team in teams.all()] == ["a", "b"]
    assert [member.name for member in members.all()] == ["ana"]


def test_a_damaged_index_of_the_machine_is_made_anew(make_database, open_machine, backup):
    url = make_database("sqlite")
    machine = open_machine(url)
    users = accessor(User, machine)
    users.insert_many(User(name=f"user {number}", email=f"{number}@x") for number in range(3))
    machine.export("backup", backup)
    machine.close()
    path = file_of(machine)
    lose_entries(path, "ix_users_deleted_at")
    assert found_by_sqlite(path) == ["wrong # of entries in index ix_users_deleted_at"]

    machine = open_machine(url)
    assert machine.import_("restore", backup).restored
    assert found_by_sqlite(path) == ["ok"]
    assert accessor(User, machine).count() == 3


def test_what_others_write_while_the_file_is_looked_through_is_replaced_and_kept(
    make_database, open_machine, backup, tmp_path
):
    url = make_database("sqlite")
    machine = open_machine(url)
    users, counters = accessor(User, machine), accessor(Counter, machine)
    users.insert(User(name="ana", email="ana@x"))
    counters.insert(Counter(value=1))
    machine.export("backup", backup)
    looked_through = threading.Event()
    reports = []

    def restore():
        def progress(step):
            if step.label == "checking tables" and step.done == step.total - 1:
                looked_through.set()

        reports.append(machine.import_("restore", backup, progress=progress))

    other = open_machine(url)
    restoring = threading.Thread(target=restore)
    with other.transaction():
        accessor(User, other).insert(User(name="ben", email="ben@x"))
        accessor(Counter, other).update(1, value=2)
        restoring.start()
        assert looked_through.wait(10)
        # All that is left is to wait for us.
        while not list(tmp_path.glob("*-backups/*.sqlite")):
            assert restoring.is_alive()
            time.sleep(0.01)
    restoring.join()
    assert [user.name for user in users.all()] == ["ana"]
    assert [counter.value for counter in counters.all()] == [1]
    [report] = reports
    assert report.tables["users"].rows_lost == 1
    [copy] = tmp_path.glob("*-backups/*")
    assert copy.name == report.safety_copy
    machine.import_("restore", copy)
    assert [user.name for user in users.all()] == ["ana", "ben"]
    assert [counter.value for counter in counters.all()] == [2]


def test_what_is_there_is_not_looked_at_again_and_what_is_not_is(machine, backup):
    accessor(User, machine).insert(User(name="ana", email="ana@x", age=3))
    bad = "UPDATE users SET age = 'three'"
    execute(file_of(machine), bad)
    machine.export("backup", backup)
    assert machine.import_("restore", backup).restored
    execute(file_of(machine), "UPDATE users SET age = 3")
    with pytest.raises(ImportRefused, match=r"users\.age holds text, not a whole number"):
        machine.import_("restore", backup)


# The file itself


def test_a_file_is_read_where_it_lies_and_a_stream_is_stored_first(any_machine, backup, tmp_path):
    any_machine.export("backup", backup)

    def copies_of(source):
        seen = set()
        folder = places_of(any_machine).work

        def progress(step):
            seen.update(folder.glob(f".{places_of(any_machine).name}.*.tmp"))

        assert any_machine.import_("restore", source, dry_run=True, progress=progress).refused_because is None
        return len(seen)

    with backup.open("rb") as stream:
        assert copies_of(stream) == 0
        assert copies_of(io.BytesIO(stream.read())) == 1
    assert copies_of(backup) == 0
    assert backup.exists()


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="the system has no such device")
def test_a_device_without_an_end_is_an_empty_file(machine, temporary_files):
    with pytest.raises(ImportRefused, match="the file is empty"):
        machine.import_("restore", "/dev/zero")
    assert temporary_files() == []


def test_the_database_itself_is_no_backup(machine, tmp_path):
    accessor(User, machine).insert(User(name="ana", email="ana@x"))
    link = tmp_path / "link.sqlite"
    link.hardlink_to(file_of(machine))
    for path in (file_of(machine), link):
        with pytest.raises(ImportRefused, match="the file is the database itself; restore a backup of it"):
            machine.import_("restore", path)
    assert accessor(User, machine).count() == 1


@pytest.mark.parametrize("change", ["write", "replace", "remove"])
def test_a_file_that_somebody_changes_meanwhile_is_refused(any_machine, backup, content, change, tmp_path):
    accessor(User, any_machine).insert(User(name="ana", email="ana@x"))
    any_machine.export("backup", backup)
    accessor(User, any_machine).insert(User(name="ben", email="ben@x"))
    before = content(any_machine)
    # Systems do not tell two moments apart that are a few milliseconds away from each other.
    os.utime(backup, (0, 0))

    def progress(step):
        if step.label == "checking tables" and step.done == 0:
            if change == "write":
                with backup.open("rb+") as file:
                    file.write(file.read(1))
            elif change == "replace":
                other = tmp_path / "other"
                other.write_bytes(backup.read_bytes())
                other.replace(backup)
            else:
                backup.unlink()

    with pytest.raises(ImportRefused, match="the file was changed while it was read"):
        any_machine.import_("restore", backup, progress=progress)
    assert content(any_machine) == before
    assert list(tmp_path.glob("*-backups/*")) == []
