"""Backups: one SQLite file that stands alone, from one moment, whichever database it comes from."""

import io
import sqlite3
import threading
import time
from contextlib import closing
from datetime import datetime, timezone
from decimal import Decimal
from importlib.metadata import version

import pytest
from models import Device, Member, Team, User
from sqlalchemy import URL
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from vstorage_backup import take_backup
from vstorage_core import ConfigurationError, ModelAccessor, StorageUnavailable


class Unseekable(io.RawIOBase):
    """A stream such as a socket: it takes bytes and nothing else."""

    def __init__(self):
        self.parts = []

    def writable(self):
        return True

    def write(self, data):
        self.parts.append(bytes(data))
        return len(data)


def read(path, sql):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(sql).fetchall()


def test_a_backup_is_an_sqlite_file_with_the_rows_whichever_engine_they_are_on(any_machine, tmp_path):
    ModelAccessor(User, "users", storage=any_machine).insert(User(name="Ana", email="ana@x"))
    path = tmp_path / "backup.sqlite"
    any_machine.export("backup", path)
    assert read(path, "SELECT name, email FROM users") == [("Ana", "ana@x")]
    assert read(path, "SELECT component, operation FROM auditlog") == [("users", "create")]
    assert read(path, "PRAGMA integrity_check") == [("ok",)]


def test_a_backup_stands_alone(any_machine, tmp_path):
    any_machine.export("backup", tmp_path / "backup.sqlite")
    header = (tmp_path / "backup.sqlite").read_bytes()[:100]
    assert header[18:20] == b"\1\1"  # rollback journal: no other file belongs to it


def test_a_backup_says_when_and_from_what_it_was_taken(any_machine, tmp_path):
    before = datetime.now(timezone.utc)
    any_machine.export("backup", tmp_path / "backup.sqlite")
    [(taken_at, version, engine)] = read(tmp_path / "backup.sqlite", "SELECT * FROM vstorage_backup")
    assert before <= datetime.fromisoformat(taken_at) <= datetime.now(timezone.utc)
    assert (version, engine) == ("0.1.0", any_machine.engine.dialect.name)


def test_a_backup_is_written_to_a_stream_that_cannot_seek(any_machine):
    stream = Unseekable()
    any_machine.export("backup", stream)
    assert b"".join(stream.parts).startswith(b"SQLite format 3\0")


def test_a_backup_into_an_open_file_leaves_the_stream_behind_it(machine, tmp_path):
    machine.export("backup", tmp_path / "alone.sqlite")
    size = (tmp_path / "alone.sqlite").stat().st_size
    for before, name in (b"", "empty"), (b"what is there already", "begun"):
        with (tmp_path / name).open("wb") as stream:
            stream.write(before)
            machine.export("backup", stream)
            stream.write(b"end")
        written = (tmp_path / name).read_bytes()
        assert written.startswith(before + b"SQLite format 3\0")
        assert written.endswith(b"end")
        assert len(written) == len(before) + size + 3


def test_a_backup_into_a_file_that_lost_its_name_touches_no_other_of_that_name(machine, tmp_path):
    path = tmp_path / "backup.sqlite"
    with path.open("w+b") as stream:
        path.rename(tmp_path / "renamed.sqlite")
        path.touch()
        machine.export("backup", stream)
    assert path.stat().st_size == 0
    assert read(tmp_path / "renamed.sqlite", "PRAGMA integrity_check") == [("ok",)]


def test_a_database_whose_locks_we_do_not_see_is_neither_backed_up_nor_restored(open_machine, tmp_path, backup):
    machine = open_machine(f"sqlite:///{tmp_path / 'machine.db'}")
    machine.export("backup", backup)
    machine.close()
    urls = [f"sqlite:///file:{tmp_path / 'machine.db'}?vfs=unix-excl&uri=true"]
    # SQLAlchemy before 2.1 adds a question mark of its own, so that SQLite knows no such vfs and opens nothing.
    if not version("sqlalchemy").startswith("2.0."):
        inside = URL.create("sqlite", database=f"file:{tmp_path / 'machine.db'}?vfs=unix-excl", query={"uri": "true"})
        urls.append(inside.render_as_string())
    for url in urls:
        machine = open_machine(url)
        for work in (
            lambda machine: machine.export("backup", tmp_path / "again.sqlite"),
            lambda machine: machine.import_("restore", backup),
            lambda machine: machine.import_("restore", backup, dry_run=True),
            take_backup,
        ):
            with pytest.raises(ConfigurationError, match=r"names a vfs.*Take vfs= out of the URL"):
                work(machine)
        machine.close()
        with pytest.raises(ConfigurationError, match="names a vfs"):
            open_machine(url, every_seconds=60).start()
    assert not (tmp_path / "again.sqlite").exists()


def test_an_in_memory_database_survives_its_backup(make_database, open_machine, tmp_path):
    # FAULTS 9: the original's backup emptied it.
    machine = open_machine(make_database("memory"))
    users = ModelAccessor(User, "users", storage=machine)
    users.insert(User(name="Ana", email="ana@x"))
    machine.export("backup", tmp_path / "backup.sqlite")
    found = []
    thread = threading.Thread(target=lambda: found.extend(users.all()))
    thread.start()
    thread.join()
    assert [user.name for user in found] == ["Ana"]


def test_writers_go_on_and_the_backup_is_from_one_moment(any_machine, tmp_path):
    teams = ModelAccessor(Team, "teams", storage=any_machine)
    members = ModelAccessor(Member, "members", storage=any_machine)
    stop = threading.Event()
    errors, committed = [], []

    def write(worker):
        try:
            while not stop.is_set():
                with any_machine.transaction():
                    team = teams.insert(Team(name=f"team {worker}"))
                    members.insert_many([Member(name="a", team_id=team.id), Member(name="b", team_id=team.id)])
                committed.append(team.id)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=[worker]) for worker in range(3)]
    for thread in threads:
        thread.start()
    counts = []
    try:
        for number in range(5):
            path = tmp_path / f"{number}.sqlite"
            any_machine.export("backup", path)
            before = len(committed)
            # Each of them may have committed one that the backup has and the list did not.
            while len(committed) <= before + len(threads) and not errors:
                time.sleep(0.001)
            [(team_count, member_count, audit_count)] = read(
                path,
                "SELECT (SELECT count(*) FROM team), (SELECT count(*) FROM member), (SELECT count(*) FROM auditlog)",
            )
            assert member_count == 2 * team_count
            assert audit_count == 3 * team_count
            counts.append(team_count)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not errors
    assert counts == sorted(set(counts))


def test_triggers_views_and_virtual_tables_stay_behind(machine, tmp_path):
    with machine.engine.begin() as connection:
        connection.exec_driver_sql("CREATE VIEW names AS SELECT name FROM users")
        connection.exec_driver_sql("CREATE TRIGGER t AFTER INSERT ON users BEGIN SELECT 1; END")
        connection.exec_driver_sql("CREATE VIRTUAL TABLE search USING fts5(name)")
    path = tmp_path / "backup.sqlite"
    machine.export("backup", path)
    assert read(path, "SELECT name FROM sqlite_master WHERE type IN ('view', 'trigger')") == []
    assert read(path, "SELECT name FROM sqlite_master WHERE name LIKE 'search%'") == []
    assert machine.import_("restore", path).restored


def test_a_backup_that_would_fill_the_disk_is_refused_and_leaves_nothing(
    any_machine, open_machine, tmp_path, temporary_files
):
    url = any_machine.engine.url.render_as_string(hide_password=False)
    machine = open_machine(url, min_free_bytes=1 << 60)
    with pytest.raises(StorageUnavailable, match=r"the backup needs .* must stay free, but only .* make room"):
        machine.export("backup", tmp_path / "backup.sqlite")
    assert not (tmp_path / "backup.sqlite").exists()
    assert temporary_files() == []


def test_a_backup_leaves_no_temporary_file_even_when_its_reader_goes_away(machine, temporary_files):
    class Gone(Unseekable):
        def write(self, data):
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        machine.export("backup", Gone())
    assert temporary_files() == []


def test_a_backup_reports_how_far_it_is(any_machine, tmp_path):
    devices = ModelAccessor(Device, "devices", storage=any_machine)
    devices.insert_many([Device(serial=f"{number:06}", label="x" * 200) for number in range(3000)])
    steps = []
    any_machine.export("backup", tmp_path / "backup.sqlite", progress=steps.append)
    if any_machine.is_in_memory:
        return
    assert steps
    assert all(0 <= step.done <= step.total for step in steps)


class Apart(SQLModel, registry=registry()):
    """Base of models beside those of the other tests."""


class Exact(Apart, table=True):
    id: int | None = Field(default=None, primary_key=True)
    amount: Decimal = Field(max_digits=26, decimal_places=6)


def test_decimals_with_more_digits_than_sqlite_keeps_come_through_a_backup(make_database, open_machine, tmp_path):
    amount = Decimal("12345678901234567890.012345")
    accessors = []
    for _ in range(2):
        accessor = ModelAccessor(Exact, "exact", storage=open_machine(make_database("postgresql")))
        accessor.storage.create_tables()
        accessors.append(accessor)
    accessors[0].insert(Exact(amount=amount))
    accessors[0].storage.export("backup", tmp_path / "backup.sqlite")
    accessors[1].storage.import_("restore", tmp_path / "backup.sqlite")
    assert [record.amount for record in accessors[1].all()] == [amount]
