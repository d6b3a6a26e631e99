"""How databases are opened, how writers take turns, and what a database that fails looks like to the caller."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from models import Counter, Sample
from sqlalchemy import String, TypeDecorator, text
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel
from trail import trail

from vstorage_core import (
    ConfigurationError,
    ModelAccessor,
    Storage,
    StorageBusy,
    StorageUnavailable,
    TransactionError,
)
from vstorage_core.engine.gate import ReadTurn, ReadTurns, WriteGate

DEADLINE = 20


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


def test_who_has_a_transaction_of_the_engine_open_in_memory_keeps_it(open_storage):
    storage = open_storage("sqlite://")
    counters = accessor_of(storage)
    counters.insert(Counter(value=1))
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE counter SET value = 2"))
        assert counters.get(1).value == 2
        with pytest.raises(TransactionError, match=r"a transaction of storage\.engine is open"):
            counters.insert(Counter(value=3))
        assert counters.count() == 1
    assert [counter.value for counter in counters.all()] == [2]
    counters.insert(Counter(value=3))
    assert counters.count() == 2


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


def test_two_readers_go_at_a_time_and_a_third_one_waits():
    turns = ReadTurns(longest_wait_seconds=DEADLINE)
    happened: list[str] = []

    def read() -> None:
        with ReadTurn(turns):
            happened.append("third reads")

    with ThreadPoolExecutor(1) as pool, ReadTurn(turns):
        assert not turns.all_taken()
        with ReadTurn(turns):
            assert turns.all_taken()
            third = pool.submit(read)
            time.sleep(0.05)
            happened.append("second leaves")
        third.result(DEADLINE)
    assert happened == ["second leaves", "third reads"]
    assert not any(lock.locked() for lock in turns.locks)


def test_a_read_by_key_takes_a_turn(make_database):
    all_taken: list[bool] = []

    class Watched(TypeDecorator[str]):
        impl = String
        cache_ok = True

        def process_result_value(self, value: Any, dialect: Any) -> Any:
            all_taken.append(storage._backend._read_turns.all_taken())
            return value

    class Plain(SQLModel, registry=registry()):
        pass

    class Watch(Plain, table=True):
        id: int | None = Field(default=None, primary_key=True)
        text: str = Field(sa_type=Watched)

    with Storage(make_database("sqlite")) as storage:
        watches = ModelAccessor(Watch, "watches", storage=storage)
        storage.create_tables()
        watches.insert(Watch(text="a"))
        watches.get(1)
        assert storage.reads_at_once()
        with storage.read_turn():
            assert storage.reads_at_once()
            watches.get(1)
            with storage.read_turn():
                assert not storage.reads_at_once()
    assert all_taken == [False, True]


def test_a_reader_who_has_waited_long_enough_goes_ahead():
    turns = ReadTurns(longest_wait_seconds=0.01)
    with ReadTurn(turns), ReadTurn(turns):
        with ReadTurn(turns):
            assert turns.all_taken()
        # He has let go of nothing that is not his.
        assert turns.all_taken()
    assert not any(lock.locked() for lock in turns.locks)


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


def test_a_file_that_is_gone_is_told_by_reads_of_rows_too(tmp_path):
    (tmp_path / "disk").mkdir()
    with Storage(f"sqlite:///{tmp_path / 'disk' / 'machine.db'}", entry_points=[]) as storage:
        storage.create_tables()
        # All connections that are open are in use.
        with storage.engine.connect(), storage.reading_connection():
            (tmp_path / "disk").rename(tmp_path / "elsewhere")
            for use in (lambda: accessor_of(storage).get(1), lambda: accessor_of(storage).insert(Counter())):
                with pytest.raises(StorageUnavailable, match="the database file cannot be opened"):
                    use()


def test_a_folder_in_place_of_the_file_is_told(tmp_path):
    with Storage(f"sqlite:///{tmp_path}", entry_points=[]) as storage, pytest.raises(StorageUnavailable):
        accessor_of(storage).count()


def test_a_missing_table_is_told_with_the_way_out(make_database):
    with (
        Storage(make_database("sqlite"), entry_points=[]) as storage,
        pytest.raises(ConfigurationError, match=r"no such table: counter; create it with bootstrap\(.*create_tables"),
    ):
        accessor_of(storage).count()


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
