"""Threads, asyncio tasks, generators and forks: a scope belongs to whoever opened it."""

from __future__ import annotations

import asyncio
import contextvars
import subprocess
import sys
import textwrap
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pytest
from models import Counter
from sqlmodel import Session
from trail import trail

from vstorage_core import ModelAccessor, Storage, StorageBusy, TransactionError, acting_as

DEADLINE = 20


@pytest.fixture
def counters(storage: Storage) -> ModelAccessor[Counter]:
    return ModelAccessor(Counter, "counters", storage=storage)


@pytest.fixture
def sqlite_counters(make_database, open_storage) -> ModelAccessor[Counter]:
    """Counters in a file, whose writers lose patience after a fifth of a second."""
    storage = open_storage(make_database("sqlite"), config={"engine": {"timeout_seconds": 0.2}})
    return ModelAccessor(Counter, "counters", storage=storage)


def values(counters: ModelAccessor[Counter]) -> list[int]:
    return [counter.value for counter in counters.all()]


def in_thread(function: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function).result(DEADLINE)


def together(count: int, work: Callable[[int], None]) -> None:
    """Run `work(0)` … `work(count - 1)` in threads that start at the same moment; raises what they raise."""
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait(DEADLINE)
        work(number)

    with ThreadPoolExecutor(count) as pool:
        for future in [pool.submit(run, number) for number in range(count)]:
            future.result(DEADLINE * 3)


# Threads


def test_a_thread_sees_the_tables_and_the_committed_rows_of_another(storage, counters):
    counters.insert(Counter(value=1))
    assert in_thread(lambda: values(counters)) == [1]
    in_thread(lambda: counters.insert(Counter(value=2)))
    assert values(counters) == [1, 2]


def test_a_thread_does_not_see_what_is_not_committed(make_database, open_storage):
    for engine in ("sqlite", "postgresql"):
        counters = ModelAccessor(Counter, "counters", storage=open_storage(make_database(engine)))
        with counters.storage.transaction():
            counters.insert(Counter())
            assert in_thread(counters.count) == 0
        assert in_thread(counters.count) == 1


def test_a_thread_that_inherits_the_context_of_a_transaction_does_not_get_its_session(sqlite_counters):
    sessions: list[Session] = []

    def read() -> int:
        with sqlite_counters.storage.use_session() as session:
            sessions.append(session)
        return sqlite_counters.count()

    with sqlite_counters.storage.transaction() as session:
        sqlite_counters.insert(Counter())
        context = contextvars.copy_context()
        assert in_thread(lambda: context.run(read)) == 0
        # It would wait for us, and we for it.
        with pytest.raises(StorageBusy):
            in_thread(lambda: contextvars.copy_context().run(sqlite_counters.insert, Counter()))
    assert sessions[0] is not session
    assert sqlite_counters.count() == 1


def test_concurrent_saves_of_one_record_leave_a_chain_without_gaps(storage, counters):
    counter = counters.insert(Counter(value=0))

    def write(number: int) -> None:
        for step in range(5):
            counters.update(counter.id, value=number * 100 + step + 1)
            counters.save(Counter(id=counter.id, value=number * 100 + step + 50))

    together(6, write)
    rows = trail(storage)
    for earlier, later in pairwise(rows):
        assert later.before == earlier.after
    assert rows[-1].after["value"] == counters.get(counter.id).value
    assert len(rows) == 1 + 6 * 5 * 2


def test_concurrent_inserts_lose_nothing_and_each_has_its_audit_row(storage, counters):
    def write(number: int) -> None:
        for _ in range(5):
            counters.insert(Counter(value=number))

    together(8, write)
    stored = counters.all()
    by_value: dict[int, int] = defaultdict(int)
    for counter in stored:
        by_value[counter.value] += 1
    assert dict(by_value) == dict.fromkeys(range(8), 5)
    assert sorted(row.record_id for row in trail(storage)) == [counter.id for counter in stored]


def test_32_threads_that_count_through_transactions_lose_nothing(storage, counters):
    counter_id = counters.insert(Counter(value=0)).id

    def count(number: int) -> None:
        for _ in range(3):
            with storage.transaction():
                counter = counters.get(counter_id)
                counter.value += 1
                counters.save(counter)

    together(32, count)
    assert counters.get(counter_id).value == 96
    assert [row.after["value"] for row in trail(storage)] == list(range(97))


def test_a_storage_may_close_while_another_thread_is_in_a_transaction(make_database, open_storage):
    storage = open_storage(make_database("sqlite"))
    counters = ModelAccessor(Counter, "counters", storage=storage)
    written, closed = threading.Event(), threading.Event()

    def write() -> None:
        with storage.transaction():
            counters.insert(Counter(value=1))
            written.set()
            assert closed.wait(DEADLINE)
            counters.insert(Counter(value=2))

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        assert written.wait(DEADLINE)
        storage.close()
        closed.set()
        writing.result(DEADLINE)
    assert values(counters) == [1, 2]


def test_the_first_use_may_come_from_many_threads_at_once(make_database):
    with Storage(make_database("sqlite"), entry_points=[]) as storage:
        storage.create_tables()
    with Storage(storage._url, entry_points=[]) as storage:
        counters = ModelAccessor(Counter, "counters", storage=storage)
        together(8, lambda number: counters.insert(Counter(value=number)) and None)
        assert sorted(values(counters)) == list(range(8))


# Tasks


@pytest.mark.parametrize("engine", ["sqlite", "memory"])
def test_a_task_started_inside_a_transaction_is_refused_to_write_and_spoils_nothing(
    make_database, open_storage, engine
):
    storage = open_storage(make_database(engine))
    counters = ModelAccessor(Counter, "counters", storage=storage)

    async def write() -> None:
        counters.insert(Counter(value=2))

    async def main() -> None:
        with storage.transaction():
            counters.insert(Counter(value=1))
            task = asyncio.create_task(write())
            with pytest.raises(TransactionError, match="another task of this event loop has a write transaction open"):
                await task
            counters.insert(Counter(value=3))

    asyncio.run(asyncio.wait_for(main(), DEADLINE))
    counters.insert(Counter(value=4))
    assert values(counters) == [1, 3, 4]
    assert [row.after["value"] for row in trail(storage)] == [1, 3, 4]


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_a_task_started_inside_a_transaction_has_its_own_on_a_server(make_database, open_storage, engine):
    storage = open_storage(make_database(engine))
    counters = ModelAccessor(Counter, "counters", storage=storage)

    async def write() -> None:
        counters.insert(Counter(value=2))

    async def main() -> None:
        with pytest.raises(ZeroDivisionError), storage.transaction():
            counters.insert(Counter(value=1))
            await asyncio.create_task(write())
            raise ZeroDivisionError

    asyncio.run(asyncio.wait_for(main(), DEADLINE))
    assert values(counters) == [2]


def test_tasks_never_share_a_session(sqlite_counters):
    storage = sqlite_counters.storage
    sessions: list[Session] = []

    async def read() -> None:
        with storage.use_session() as session:
            sessions.append(session)
            await asyncio.sleep(0)
            with storage.use_session() as again:
                assert again is session

    async def main() -> None:
        with storage.use_session() as session:
            sessions.append(session)
            await asyncio.gather(read(), read(), read())

    asyncio.run(main())
    assert len({id(session) for session in sessions}) == 4


def test_a_task_may_write_while_another_one_only_reads(sqlite_counters):
    async def write() -> None:
        sqlite_counters.insert(Counter(value=1))

    async def main() -> None:
        with sqlite_counters.storage.use_session():
            assert sqlite_counters.count() == 0
            await asyncio.gather(write(), write())
            assert sqlite_counters.count() in (0, 2)

    asyncio.run(main())
    assert values(sqlite_counters) == [1, 1]


def test_the_actor_of_a_task_stays_its_own(storage, counters):
    async def write(actor: str) -> None:
        with acting_as(actor):
            await asyncio.sleep(0)
            counters.insert(Counter())

    async def main() -> None:
        await asyncio.gather(*(write(f"actor {number}") for number in range(5)))

    asyncio.run(main())
    assert sorted(row.actor for row in trail(storage)) == [f"actor {number}" for number in range(5)]


def test_work_in_a_thread_of_an_event_loop_runs_while_no_transaction_is_open(storage, counters):
    async def main() -> None:
        await asyncio.gather(*(asyncio.to_thread(counters.insert, Counter(value=number)) for number in range(8)))

    asyncio.run(asyncio.wait_for(main(), DEADLINE))
    assert sorted(values(counters)) == list(range(8))


# Generators


def test_a_generator_that_is_dropped_rolls_back_and_lets_others_write(storage, counters):
    def fill() -> Iterator[None]:
        with storage.transaction():
            counters.insert(Counter(value=1))
            yield

    generator = fill()
    next(generator)
    generator.close()
    assert values(counters) == []
    in_thread(lambda: counters.insert(Counter(value=2)))
    assert values(counters) == [2]


class Dependency:
    """A generator that is entered and left in different threads, as FastAPI does with `yield` in a dependency."""

    def __init__(self, function: Callable[[], Iterator[Any]]) -> None:
        self._manager = contextmanager(function)()

    def enter(self) -> Any:
        return in_thread(lambda: contextvars.copy_context().run(self._manager.__enter__))

    def leave(self, error: BaseException | None = None) -> bool | None:
        """Whether it swallowed the error."""
        details = (type(error), error, error.__traceback__) if error else (None, None, None)
        return in_thread(lambda: contextvars.copy_context().run(self._manager.__exit__, *details))


def test_a_transaction_may_be_entered_in_one_thread_and_left_in_another(storage, counters):
    def transaction() -> Iterator[Session]:
        with storage.transaction() as session:
            yield session

    committing = Dependency(transaction)
    committing.enter().add(Counter(value=1))
    committing.leave()
    assert values(counters) == [1]

    failing = Dependency(transaction)
    failing.enter().add(Counter(value=2))
    assert not failing.leave(ZeroDivisionError())
    counters.insert(Counter(value=3))
    assert values(counters) == [1, 3]
    assert [row.after["value"] for row in trail(storage)] == [1, 3]


def test_use_session_may_be_entered_in_one_thread_and_left_in_another(storage, counters):
    def session() -> Iterator[Session]:
        with storage.use_session() as session:
            yield session

    dependency = Dependency(session)
    used = dependency.enter()
    with storage.use_session(used):
        counters.insert(Counter(value=1))
    used.add(Counter(value=2))
    dependency.leave()
    assert values(counters) == [1, 2]


def test_an_actor_may_be_named_in_one_thread_and_forgotten_in_another(storage, counters):
    def actor() -> Iterator[None]:
        with acting_as("ana"):
            yield

    dependency = Dependency(actor)
    dependency.enter()
    dependency.leave()
    counters.insert(Counter())
    assert trail(storage)[0].actor == "internal"


def test_the_thread_that_entered_a_transaction_for_somebody_else_may_wait_for_its_end(sqlite_counters):
    """A pool's thread serves another request while the dependency of the first one is still open."""
    storage = sqlite_counters.storage

    def transaction() -> Iterator[Session]:
        with storage.transaction() as session:
            yield session

    manager = contextmanager(transaction)()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.copy_context().run, manager.__enter__).result(DEADLINE)
        with pytest.raises(StorageBusy):
            pool.submit(sqlite_counters.insert, Counter()).result(DEADLINE)
        manager.__exit__(None, None, None)
        pool.submit(sqlite_counters.insert, Counter(value=1)).result(DEADLINE)
    assert values(sqlite_counters) == [1]


def test_dependencies_of_fastapi_share_the_database_between_requests(sqlite_counters):
    from typing import Annotated

    from fastapi import Depends, FastAPI
    from fastapi.testclient import TestClient

    app = FastAPI()
    storage = sqlite_counters.storage

    def transaction() -> Iterator[Session]:
        with storage.transaction() as session:
            yield session

    def add(value: int, session: Annotated[Session, Depends(transaction)]) -> None:
        with storage.use_session(session):
            sqlite_counters.insert(Counter(value=value))
            if value < 0:
                raise ZeroDivisionError

    # FastAPI reads annotations when the route is made; `from __future__ import annotations` hides local names.
    add.__annotations__.update(session=Annotated[Session, Depends(transaction)], value=int)
    app.post("/counters/{value}")(add)
    client = TestClient(app)
    for value in range(5):
        assert client.post(f"/counters/{value}").status_code == 200
    with pytest.raises(ZeroDivisionError):
        client.post("/counters/-1")
    assert client.post("/counters/5").status_code == 200
    assert values(sqlite_counters) == list(range(6))


# Forks


FORK = """
    import os, sys
    sys.path[:0] = sys.argv[2].split(os.pathsep)
    from models import Counter
    from vstorage_core import ModelAccessor, Storage

    storage = Storage(sys.argv[1], entry_points=[])
    storage.create_tables()
    counters = ModelAccessor(Counter, "counters", storage=storage)
    counters.insert(Counter(value=1))

    def in_child(work):
        child = os.fork()
        if child == 0:
            try:
                work()
            except BaseException as error:
                print(type(error).__name__, error, file=sys.stderr)
                os._exit(1)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0

    def write_and_read():
        for _ in range(10):
            counters.insert(Counter(value=2))
        assert counters.count() == 11

    in_child(write_and_read)
    assert counters.count() == 11
    with storage.transaction():
        counters.insert(Counter(value=3))
        {inside}
    counters.insert(Counter(value=4))
    assert counters.count() == 13, counters.count()
    with storage.snapshot() as connection:
        {check}
"""


@pytest.mark.parametrize("engine", ["sqlite", "postgresql", "mariadb"])
def test_a_forked_child_has_connections_of_its_own(make_database, engine):
    run_forking(
        make_database(engine),
        inside="pass",
        check='assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"'
        if engine == "sqlite"
        else "pass",
    )


def test_a_child_forked_inside_a_transaction_does_not_touch_it(make_database):
    run_forking(
        make_database("sqlite"),
        inside="in_child(lambda: (counters.count() == 11) or 1 / 0)",
        check='assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"',
    )


def run_forking(url: str, **parts: str) -> None:
    script = textwrap.dedent(FORK)
    for name, part in parts.items():
        script = script.replace(f"{{{name}}}", part)
    done = subprocess.run(
        [sys.executable, "-c", script, url, ":".join(sys.path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
