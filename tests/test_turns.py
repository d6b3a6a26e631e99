"""Threads and processes take turns to write, and threads to read rows."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from models import Counter
from sqlalchemy import String, TypeDecorator
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel
from trail import trail

from vstorage_core import (
    ModelAccessor,
    Storage,
    StorageBusy,
)
from vstorage_core.engine.gate import ReadTurn, ReadTurns, WriteGate

DEADLINE = 20


def accessor_of(storage: Storage, model: type[Any] = Counter) -> ModelAccessor[Any]:
    return ModelAccessor(model, model.__name__.lower() + "s", storage=storage)


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


def test_a_file_that_somebody_else_is_writing_to_opens_and_reads(make_database):
    url = make_database("sqlite")
    with Storage(url, entry_points=[]) as storage:
        storage.create_tables()
        accessor_of(storage).insert(Counter(value=1))
    config = {"engine": {"timeout_seconds": 0.3}}
    with held_by_another_process(url), Storage(url, entry_points=[], config=config) as storage:
        assert accessor_of(storage).get(1).value == 1
        assert storage.health().ok
