"""PostgreSQL and MariaDB: transactions side by side, time-outs, connections that are lost, URLs."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest
import sqlalchemy
from models import Counter, User
from sqlalchemy import text
from trail import trail

from vstorage_core import (
    ConfigurationError,
    ConstraintViolation,
    ModelAccessor,
    Storage,
    StorageBusy,
    StorageUnavailable,
    TransactionConflict,
    TransactionError,
)

DEADLINE = 20


def accessor_of(storage: Storage, model: type[Any] = Counter) -> ModelAccessor[Any]:
    return ModelAccessor(model, model.__name__.lower() + "s", storage=storage)


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
        # Whoever caught the refusal of one operation may not commit the others.
        committed = {"none, committed": 3, "caught, refused": 0}[result]
        assert written.count(mark) == committed, (results, written)
    assert counters.count() == 2 + sum(result.endswith("committed") for result in results)


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_a_deadlock_among_inserts_is_told_as_one_and_commits_nothing_of_the_loser(make_database, open_storage, engine):
    storage = open_storage(make_database(engine))
    users = accessor_of(storage, User)
    both_hold_one = threading.Barrier(2)

    def write(one: str, other: str) -> str:
        caught = "none"
        try:
            with storage.transaction():
                users.insert(User(name=one, email=f"{one}@x"))
                both_hold_one.wait(DEADLINE)
                try:
                    users.insert(User(name=one, email=f"{other}@x"))
                except TransactionConflict:
                    caught = "conflict"
                except ConstraintViolation:
                    caught = "taken"
                users.insert(User(name=one, email=f"{one}@y"))
        except TransactionConflict:
            return f"{caught}, refused"
        return f"{caught}, committed"

    with ThreadPoolExecutor(2) as pool:
        outcomes = {one: pool.submit(write, one, other) for one, other in (("a", "b"), ("b", "a"))}
        results = {one: outcome.result(DEADLINE) for one, outcome in outcomes.items()}
    assert any(result.startswith("conflict") for result in results.values())
    for one, result in results.items():
        whole = {"none, committed": 3, "taken, committed": 2, "conflict, refused": 0}[result]
        assert users.count(name=one) == whole, results
    assert len(trail(storage)) == users.count()


def test_a_serialization_failure_is_run_again_where_the_transaction_is_ours(make_database, open_storage):
    serializable = {"options": "-c default_transaction_isolation=serializable"}
    url = sqlalchemy.make_url(make_database("postgresql")).update_query_dict(serializable)
    storage = open_storage(url.render_as_string(hide_password=False))
    counters = accessor_of(storage)
    counters.insert(Counter())
    with ThreadPoolExecutor(1) as pool:
        with storage.transaction():
            counters.update(1, value=1)
            other = pool.submit(counters.update, 1, value=2)
            waiting = text(
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            with storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                while not connection.scalar(waiting):
                    threading.Event().wait(0.01)
        assert other.result(DEADLINE).value == 2
    assert [row.after["value"] for row in trail(storage)] == [0, 1, 2]
    assert [row.before and row.before["value"] for row in trail(storage)] == [None, 0, 1]


MANY = "information_schema.collations"


@pytest.mark.parametrize(
    ("engine", "statement"),
    [
        ("postgresql", "SELECT pg_sleep(20)"),
        ("mariadb", f"SELECT count(*) FROM {MANY} a, {MANY} b, {MANY} c, {MANY} d"),
    ],
)
def test_a_statement_that_takes_too_long_is_stopped_and_told(make_database, open_storage, engine, statement):
    storage = open_storage(make_database(engine), config={"engine": {"statement_timeout_seconds": 0.2}})
    counters = accessor_of(storage)
    started = time.monotonic()
    with pytest.raises(StorageBusy, match="a statement that took too long"), storage.transaction() as session:
        counters.insert(Counter())
        session.execute(text(statement))
    assert time.monotonic() - started < 5
    assert counters.count() == 0


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_whoever_waits_too_long_for_a_connection_is_told_so(make_database, open_storage, engine):
    storage = open_storage(make_database(engine), config={"engine": {"pool_size": 1, "timeout_seconds": 0.2}})
    with ExitStack() as stack:
        for _ in range(1 + 10):
            stack.enter_context(storage.engine.connect())
        with pytest.raises(StorageBusy, match=r"all connections .* are in use; .*engine.pool_size"):
            accessor_of(storage).count()
    assert accessor_of(storage).count() == 0


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_of_several_hosts_the_first_that_works_is_used(make_database, open_storage, engine):
    url = sqlalchemy.make_url(make_database(engine))
    ours = f"{url.host}:{url.port}" if url.host else str(url.query["host"])
    several = url.set(host=None, port=None, query={**url.query, "host": ["127.0.0.1:1", ours]})
    storage = open_storage(several.render_as_string(hide_password=False))
    assert accessor_of(storage).insert(Counter()).id == 1


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
