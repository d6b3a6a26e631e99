"""How databases are opened, how writers take turns, and what a database that fails looks like to the caller."""

from __future__ import annotations

import os
import re
import sqlite3
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from models import Counter, Device, Member, Sample, Team, User
from sqlalchemy import CheckConstraint, UniqueConstraint, delete, insert, text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel
from trail import trail

from vstorage_core import (
    ConfigurationError,
    ConstraintViolation,
    InvalidInput,
    ModelAccessor,
    Storage,
    StorageBusy,
    StorageError,
    StorageUnavailable,
    TransactionError,
)
from vstorage_core.engine import WriteGate

DEADLINE = 20


class Own(SQLModel, registry=registry()):
    """Base of models that other tests do not get tables of."""


class Slot(Own, table=True):
    __table_args__ = (
        UniqueConstraint("shelf", "place", name="one_thing_per_place"),
        CheckConstraint("place > 0", name="places_start_at_one"),
    )

    id: int | None = Field(default=None, primary_key=True)
    shelf: int
    place: int


def accessor_of(storage: Storage, model: type[Any] = Counter) -> ModelAccessor[Any]:
    return ModelAccessor(model, model.__name__.lower() + "s", storage=storage)


def path_of(storage: Storage) -> Path:
    return Path(storage.url.removeprefix("sqlite:///"))


# SQLite: how a file is opened


PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "trusted_schema": 0,
    "recursive_triggers": 1,
    "busy_timeout": 10_000,
    "journal_size_limit": 64 * 1024 * 1024,
    "query_only": 0,
}


def pragmas(connection: sqlalchemy.Connection) -> dict[str, Any]:
    return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in PRAGMAS}


def test_writers_and_readers_are_opened_for_a_machine_that_loses_power(sqlite_storage):
    with sqlite_storage.engine.connect() as connection:
        assert pragmas(connection) == PRAGMAS
    with sqlite_storage.use_session() as session:
        assert pragmas(session.connection()) == {**PRAGMAS, "query_only": 1}
    with sqlite_storage.snapshot() as connection:
        assert pragmas(connection) == {**PRAGMAS, "query_only": 1}


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1), ("off", 0)])
def test_durability_decides_when_the_disk_is_awaited(make_database, open_storage, durability, synchronous):
    storage = open_storage(make_database("sqlite"), config={"engine": {"durability": durability}})
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == synchronous


def test_reads_cannot_write_by_accident(sqlite_storage):
    with (
        pytest.raises(StorageUnavailable, match="write inside `with transaction"),
        sqlite_storage.use_session() as session,
    ):
        session.execute(text("INSERT INTO counter (value) VALUES (1)"))
    with sqlite_storage.transaction() as session:
        session.execute(text("INSERT INTO counter (value) VALUES (1)"))
    assert accessor_of(sqlite_storage).count() == 1


def test_readers_go_on_while_somebody_writes(sqlite_storage):
    counters = accessor_of(sqlite_storage)
    counters.insert(Counter(value=1))
    with sqlite_storage.transaction(), ThreadPoolExecutor(1) as pool:
        counters.update(1, value=2)
        assert pool.submit(counters.get, 1).result(DEADLINE).value == 1


def test_the_write_ahead_log_stays_bounded_while_readers_come_and_go(make_database, open_storage):
    limit = 200_000
    storage = open_storage(make_database("sqlite"), config={"engine": {"journal_size_limit_bytes": limit}})
    samples = accessor_of(storage, Sample)
    log = Path(f"{path_of(storage)}-wal")
    stop, largest = threading.Event(), 0

    def read() -> None:
        while not stop.is_set():
            samples.count()

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for _ in range(40):
            samples.insert(Sample(raw=bytes(50_000)))
            largest = max(largest, log.stat().st_size)
        stop.set()
        for reader in readers:
            reader.result(DEADLINE)
    assert largest < 3 * limit


def test_a_relative_path_stays_the_same_file_when_the_process_changes_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Storage("sqlite:///./machine.db", entry_points=[]) as storage:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        storage.create_tables()
    assert (tmp_path / "machine.db").exists()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["with space.db", "übung.db", "a'b.db", "no-suffix"])
def test_a_file_may_have_any_name(tmp_path, name):
    with Storage(f"sqlite:///{tmp_path / name}", entry_points=[]) as storage:
        storage.create_tables()
        accessor_of(storage).insert(Counter())
    assert (tmp_path / name).stat().st_size > 0


def test_a_file_that_somebody_else_is_writing_to_opens_and_reads(make_database):
    url = make_database("sqlite")
    with Storage(url, entry_points=[]) as storage:
        storage.create_tables()
        accessor_of(storage).insert(Counter(value=1))
    config = {"engine": {"timeout_seconds": 0.3}}
    with held_by_another_process(url), Storage(url, entry_points=[], config=config) as storage:
        assert accessor_of(storage).get(1).value == 1
        assert storage.health().ok


def test_a_storage_in_memory_is_one_database_of_its_own(make_database, open_storage):
    first, second = (accessor_of(open_storage(make_database("memory"))) for _ in range(2))
    first.insert(Counter())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda value: first.insert(Counter(value=value)), range(20)))
    assert (first.count(), second.count()) == (21, 0)


def test_tables_that_exist_are_left_as_they_are(make_database):
    ours = "CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER, note TEXT)"
    with Storage(make_database("sqlite"), entry_points=[]) as storage:
        with storage.engine.begin() as connection:
            connection.exec_driver_sql(ours)
        storage.create_tables()
        with storage.engine.connect() as connection:
            stored = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'counter'").scalar_one()
    assert stored == ours


def test_a_key_is_never_given_twice(storage):
    counters = accessor_of(storage)
    first = counters.insert(Counter()).id
    counters.delete(first)
    second = counters.insert(Counter()).id
    counters.delete_many([second])
    third = counters.insert_many([Counter(), Counter()])[0].id
    assert first < second < third


def test_a_key_is_never_given_twice_by_a_file_that_was_closed(make_database):
    url = make_database("sqlite")
    with Storage(url, entry_points=[]) as storage:
        storage.create_tables()
        accessor_of(storage).delete(accessor_of(storage).insert(Counter()).id)
    with Storage(url, entry_points=[]) as storage:
        assert accessor_of(storage).insert(Counter()).id == 2


# Taking turns


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.001)


def test_writers_take_turns_in_the_order_in_which_they_came():
    gate = WriteGate()
    gate.acquire(1)
    order: list[int] = []

    def write(number: int) -> None:
        gate.acquire(DEADLINE)
        order.append(number)
        gate.release()

    with ThreadPoolExecutor(10) as pool:
        writers = []
        for number in range(10):
            writers.append(pool.submit(write, number))
            wait_until(lambda number=number: len(gate._queue) == number + 1)
        gate.release()
        for writer in writers:
            writer.result(DEADLINE)
    assert order == list(range(10))


def test_a_writer_that_lost_patience_does_not_hold_up_those_behind_it():
    gate = WriteGate()
    gate.acquire(1)
    got = threading.Event()

    def impatient() -> None:
        with pytest.raises(StorageBusy):
            gate.acquire(0.05)

    def patient() -> None:
        gate.acquire(DEADLINE)
        got.set()
        gate.release()

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(impatient)
        wait_until(lambda: len(gate._queue) == 1)
        second = pool.submit(patient)
        first.result(DEADLINE)
        gate.release()
        second.result(DEADLINE)
    assert got.is_set()
    gate.acquire(1)


def test_a_writer_that_waits_too_long_is_told_that_the_database_is_busy(make_database, open_storage):
    storage = open_storage(make_database("sqlite"), config={"engine": {"timeout_seconds": 0.2}})
    counters = accessor_of(storage)
    with storage.transaction(), ThreadPoolExecutor(1) as pool:
        started = time.monotonic()
        with pytest.raises(StorageBusy, match=r"other writers held the database for 0.2 s; try again") as caught:
            pool.submit(counters.insert, Counter()).result(DEADLINE)
    assert 0.15 < time.monotonic() - started < 5
    assert caught.value.retry_after_seconds == 1
    assert counters.insert(Counter()).id == 1
    assert len(trail(storage)) == 1


HOLD = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextmanager
def held_by_another_process(url: str) -> Iterator[None]:
    """Meanwhile another process is in the middle of writing to the file."""
    command = [sys.executable, "-c", HOLD, url.removeprefix("sqlite:///")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.communicate("")


def test_a_lock_of_another_process_is_waited_for_and_then_told(make_database, open_storage):
    url = make_database("sqlite")
    storage = open_storage(url, config={"engine": {"timeout_seconds": 0.3}})
    counters = accessor_of(storage)
    counters.insert(Counter())
    with held_by_another_process(url):
        started = time.monotonic()
        with pytest.raises(StorageBusy, match="another process holds the database; try again"):
            counters.insert(Counter())
        assert 0.25 < time.monotonic() - started < 5
        assert counters.count() == 1
    counters.insert(Counter())
    assert counters.count() == len(trail(storage)) == 2


def test_a_lock_of_another_process_that_ends_in_time_is_only_waited_for(make_database, open_storage):
    url = make_database("sqlite")
    counters = accessor_of(open_storage(url))
    with ThreadPoolExecutor(1) as pool:
        with held_by_another_process(url):
            writing = pool.submit(counters.insert, Counter())
        assert writing.result(DEADLINE).id == 1


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_a_row_that_another_connection_holds_is_waited_for_and_then_told(make_database, open_storage, engine):
    storage = open_storage(make_database(engine), config={"engine": {"timeout_seconds": 1}})
    counters = accessor_of(storage)
    counter = counters.insert(Counter())
    with storage.transaction(), ThreadPoolExecutor(1) as pool:
        counters.update(counter.id, value=1)
        with pytest.raises(StorageBusy, match="another transaction holds the record; try again"):
            pool.submit(lambda: counters.update(counter.id, value=2)).result(DEADLINE)
    assert counters.get(counter.id).value == 1


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_of_two_transactions_that_wait_for_each_other_one_succeeds(make_database, open_storage, engine):
    storage = open_storage(make_database(engine))
    counters = accessor_of(storage)
    first, second = counters.insert_many([Counter(), Counter()])
    both_hold_one = threading.Barrier(2)

    def write(one: int, other: int) -> str:
        try:
            with storage.transaction():
                counters.update(one, value=one)
                both_hold_one.wait(DEADLINE)
                counters.update(other, value=one)
        except StorageBusy:
            return "busy"
        return "done"

    with ThreadPoolExecutor(2) as pool:
        outcomes = [pool.submit(write, first.id, second.id), pool.submit(write, second.id, first.id)]
        assert sorted(outcome.result(DEADLINE) for outcome in outcomes) == ["busy", "done"]
    assert counters.get(first.id).value == counters.get(second.id).value != 0
    assert len(trail(storage)) == 4


@pytest.mark.parametrize("engine", ["sqlite", "postgresql", "mariadb"])
def test_a_named_lock_lets_one_transaction_through_at_a_time(make_database, open_storage, engine):
    storage = open_storage(make_database(engine))
    counters = accessor_of(storage)

    def insert_if_none(number: int) -> None:
        with storage.transaction():
            storage.lock("counters")
            if counters.count() == 0:
                counters.insert(Counter())

    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            list(pool.map(insert_if_none, range(8)))
            assert counters.count() == 1
            counters.delete(counters.all()[0].id)


@pytest.mark.parametrize("engine", ["sqlite", "memory", "postgresql", "mariadb"])
def test_a_named_lock_is_part_of_its_transaction(make_database, open_storage, engine):
    storage = open_storage(make_database(engine))
    counters = accessor_of(storage)
    with pytest.raises(ZeroDivisionError), storage.transaction():
        counters.insert(Counter())
        storage.lock("counters")
        raise ZeroDivisionError
    assert counters.count() == 0
    with pytest.raises(TransactionError, match="a lock belongs to a transaction"):
        storage.lock("counters")


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_a_transaction_that_lost_a_deadlock_commits_nothing_of_it(make_database, open_storage, engine):
    storage = open_storage(make_database(engine))
    counters = accessor_of(storage)
    first, second = counters.insert_many([Counter(), Counter()])
    both_hold_one = threading.Barrier(2)

    def write(one: int, other: int, mark: int) -> str:
        caught = "none"
        try:
            with storage.transaction():
                counters.update(one, value=mark)
                both_hold_one.wait(DEADLINE)
                try:
                    counters.update(other, value=mark)
                except StorageBusy:
                    caught = "caught"
                counters.insert(Counter(value=mark))
        except StorageBusy:
            return f"{caught}, refused"
        return f"{caught}, committed"

    with ThreadPoolExecutor(2) as pool:
        outcomes = [pool.submit(write, first.id, second.id, 1), pool.submit(write, second.id, first.id, 2)]
        results = [outcome.result(DEADLINE) for outcome in outcomes]
    written = [row.after["value"] for row in trail(storage)]
    for mark, result in enumerate(results, start=1):
        # Who caught the refusal of one operation may commit the others, but then all of them.
        committed = {"none, committed": 3, "caught, committed": 2, "caught, refused": 0}[result]
        assert written.count(mark) == committed, (results, written)
    assert counters.count() == 2 + sum(result.endswith("committed") for result in results)


# Databases that fail


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of three megabytes."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a small file system"
)


@needs_root
def test_a_full_disk_refuses_the_write_and_leaves_the_database_whole(tmp_path):
    with small_disk(tmp_path / "disk") as disk, Storage(f"sqlite:///{disk}/machine.db", entry_points=[]) as storage:
        storage.create_tables()
        samples = accessor_of(storage, Sample)
        filler = disk / "filler"
        filler.write_bytes(bytes(1_500_000))
        acknowledged = 0
        with pytest.raises(StorageUnavailable, match="the disk is full") as caught:
            for _ in range(100):
                samples.insert(Sample(raw=os.urandom(30_000)))
                acknowledged += 1
        assert caught.value.retry_after_seconds > 0
        assert acknowledged > 0
        for several in (1, 3):
            with pytest.raises(StorageUnavailable), storage.transaction():
                samples.insert_many([Sample(raw=os.urandom(300_000)) for _ in range(several)])
        assert samples.count() == len(trail(storage)) == acknowledged
        assert "the disk is full" in storage.health().checks["database"]["error"]

        filler.unlink()
        assert storage.health().ok
        samples.insert(Sample(raw=b"again"))
        assert samples.count() == acknowledged + 1
        with storage.snapshot() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"


@needs_root
def test_a_disk_that_became_read_only_refuses_writes(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        with Storage(f"sqlite:///{disk}/machine.db", entry_points=[]) as storage:
            storage.create_tables()
            accessor_of(storage).insert(Counter())
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with Storage(f"sqlite:///{disk}/machine.db", entry_points=[]) as storage:
            with pytest.raises(StorageUnavailable):
                accessor_of(storage).insert(Counter())
            assert storage.health().checks["database"]["error"] == "the database's file or folder cannot be written"
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        with Storage(f"sqlite:///{disk}/machine.db", entry_points=[]) as storage:
            assert accessor_of(storage).insert(Counter()).id == 2


def test_a_file_that_is_no_database_is_told(tmp_path):
    (tmp_path / "machine.db").write_bytes(b"not a database, but long enough to have a header" * 100)
    with Storage(f"sqlite:///{tmp_path}/machine.db", entry_points=[]) as storage:
        with pytest.raises(StorageUnavailable, match="the file is not an SQLite database"):
            accessor_of(storage).count()
        health = storage.health()
    assert not health.ok
    assert health.checks["database"]["error"] == "the file is not an SQLite database"


def test_a_folder_in_place_of_the_file_is_told(tmp_path):
    with Storage(f"sqlite:///{tmp_path}", entry_points=[]) as storage, pytest.raises(StorageUnavailable):
        accessor_of(storage).count()


def test_a_missing_table_is_told_with_the_way_out(make_database):
    with (
        Storage(make_database("sqlite"), entry_points=[]) as storage,
        pytest.raises(ConfigurationError, match=r"no such table: counter; create it with bootstrap\(.*create_tables"),
    ):
        accessor_of(storage).count()


@pytest.mark.parametrize("url", ["postgresql://nobody:s3cret@127.0.0.1:1/x", "mysql://nobody:s3cret@127.0.0.1:1/x"])
def test_a_server_that_does_not_answer_is_unavailable(url):
    with Storage(url, entry_points=[], config={"engine": {"timeout_seconds": 2}}) as storage:
        with pytest.raises(StorageUnavailable, match=r"cannot be reached|cannot do this now") as caught:
            accessor_of(storage).count()
        assert not storage.health().ok
        assert "s3cret" not in f"{storage!r} {storage.url} {caught.value} {storage.health()}"


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_a_connection_that_the_server_drops_fails_one_transaction_and_no_more(make_database, open_storage, engine):
    storage = open_storage(make_database(engine))
    counters = accessor_of(storage)
    counters.insert(Counter(value=1))
    own_id, kill = {
        "postgresql": ("SELECT pg_backend_pid()", "SELECT pg_terminate_backend({})"),
        "mariadb": ("SELECT CONNECTION_ID()", "KILL {}"),
    }[engine]

    def drop(connection_id: int) -> None:
        with storage.engine.connect() as connection:
            connection.exec_driver_sql(kill.format(connection_id))

    with pytest.raises(StorageUnavailable), storage.transaction() as session, ThreadPoolExecutor(1) as pool:
        counters.insert(Counter(value=2))
        connection_id = session.connection().exec_driver_sql(own_id).scalar_one()
        pool.submit(drop, connection_id).result(DEADLINE)
        counters.insert(Counter(value=3))
    counters.insert(Counter(value=4))
    assert [counter.value for counter in counters.all()] == [1, 4]


# What the database refuses


def strangers_view(error: BaseException) -> str:
    return f"{error} {error!r} {error.args}"


@pytest.fixture
def slots(storage: Storage) -> ModelAccessor[Slot]:
    slots = accessor_of(storage, Slot)
    assert slots.storage is storage
    storage.create_tables()
    return slots


def test_a_taken_value_is_told_by_its_field(storage):
    users = accessor_of(storage, User)
    users.insert(User(name="Ana", email="secret@example.com"))
    with pytest.raises(ConstraintViolation) as caught:
        users.insert(User(name="Ben", email="secret@example.com"))
    assert (caught.value.kind, caught.value.fields) == ("unique", ["email"])
    assert str(caught.value) == "email is taken by another record"


def test_a_taken_key_is_told_by_its_field(storage):
    devices = accessor_of(storage, Device)
    devices.insert(Device(serial="A1"))
    with pytest.raises(ConstraintViolation) as caught:
        devices.insert(Device(serial="A1"))
    assert (caught.value.kind, caught.value.fields) == ("unique", ["serial"])


def test_a_taken_combination_is_told_by_its_fields(slots):
    slots.insert(Slot(shelf=1, place=1))
    with pytest.raises(ConstraintViolation) as caught:
        slots.insert(Slot(shelf=1, place=1))
    assert (caught.value.kind, caught.value.fields) == ("unique", ["shelf", "place"])


def test_a_reference_to_nothing_is_refused(storage):
    members = accessor_of(storage, Member)
    with pytest.raises(ConstraintViolation) as caught:
        members.insert(Member(name="m", team_id=99))
    assert caught.value.kind == "foreign_key"
    assert caught.value.fields in (["team_id"], [])  # SQLite does not tell it


def test_a_record_that_others_refer_to_is_not_deleted(storage):
    team = accessor_of(storage, Team).insert(Team(name="red"))
    accessor_of(storage, Member).insert(Member(name="m", team_id=team.id))
    with pytest.raises(ConstraintViolation) as caught, storage.transaction() as session:
        session.execute(delete(Team))
    assert caught.value.kind == "foreign_key"
    assert accessor_of(storage, Team).count() == 1


def test_a_missing_value_is_told_by_its_field(storage):
    with pytest.raises(ConstraintViolation) as caught, storage.transaction() as session:
        session.execute(insert(User).values(email="a@example.com"))
    assert (caught.value.kind, caught.value.fields) == ("not_null", ["name"])
    assert str(caught.value) == "name is required"


def test_a_broken_rule_of_the_table_is_told(slots):
    with pytest.raises(ConstraintViolation) as caught:
        slots.insert(Slot(shelf=1, place=0))
    assert caught.value.kind == "check"
    assert str(caught.value) == "the table's rule places_start_at_one refuses the values"


def test_no_refusal_shows_sql_or_values(storage, slots):
    users = accessor_of(storage, User)
    users.insert(User(name="Ana", email="topsecret@example.com"))
    slots.insert(Slot(shelf=424242, place=1))
    refusals = []
    for write in (
        lambda: users.insert(User(name="Ben", email="topsecret@example.com")),
        lambda: slots.insert(Slot(shelf=424242, place=1)),
        lambda: slots.insert(Slot(shelf=424242, place=-1)),
        lambda: accessor_of(storage, Member).insert(Member(name="topsecret", team_id=424242)),
        lambda: users.update(1, name="topsecret" * 10),
    ):
        with pytest.raises(StorageError) as caught:
            write()
        refusals.append(strangers_view(caught.value))
    for refusal in refusals:
        assert not re.search(r"topsecret|424242|INSERT|UPDATE|SELECT|\[SQL|sqlite3|psycopg|pymysql", refusal), refusal


def test_the_drivers_own_words_stay_in_the_traceback_for_the_log(sqlite_storage):
    devices = accessor_of(sqlite_storage, Device)
    devices.insert(Device(serial="A1"))
    with pytest.raises(ConstraintViolation) as caught:
        devices.insert(Device(serial="A1"))
    assert isinstance(caught.value.orig, sqlite3.IntegrityError)
    assert "UNIQUE constraint failed: device.serial" in "".join(traceback.format_exception(caught.value))


def test_a_value_that_does_not_fit_is_refused_as_input(storage):
    with pytest.raises(InvalidInput), storage.transaction() as session:
        session.execute(insert(Counter).values(value=2**70))
    assert accessor_of(storage).count() == 0


# URLs


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("machine.db", "'machine.db' is not a database URL; write e.g. sqlite:///"),
        ("sqlite:/machine.db", "is not a database URL"),
        ("oracle://x", "'oracle' is not supported; use sqlite, postgresql, mysql or mariadb"),
        ("sqlite:////no/such/folder/machine.db", "there is no folder /no/such/folder"),
    ],
)
def test_a_url_that_cannot_work_is_refused_at_once(url, message):
    with pytest.raises(ConfigurationError, match=message):
        Storage(url, entry_points=[])


@pytest.mark.parametrize(
    ("url", "driver", "extra"), [("postgresql://x/y", "psycopg", "postgres"), ("mariadb://x/y", "pymysql", "mysql")]
)
def test_a_missing_driver_is_told_with_the_command_that_installs_it(monkeypatch, url, driver, extra):
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(ConfigurationError, match=rf"needs the driver {driver}: pip install 'vstorage-core\[{extra}\]'"):
        Storage(url, entry_points=[])


@pytest.mark.parametrize(
    ("engine", "scheme"),
    [
        ("postgresql", "postgresql"),
        ("postgresql", "postgres"),
        ("postgresql", "postgresql+psycopg2"),
        ("mariadb", "mysql"),
        ("mariadb", "mariadb"),
    ],
)
def test_a_url_needs_no_driver(make_database, engine, scheme):
    url = make_database(engine)
    with Storage(f"{scheme}://{url.split('://')[1]}", entry_points=[]) as storage:
        assert storage.health().ok
