"""Reads that standbys of a PostgreSQL primary answer: never older than allowed, never without one's own writes."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest
from models import Counter, User
from servers import Postgresql, server
from sqlalchemy import Engine, event, func, text
from sqlmodel import select

from vstorage_core import ConfigurationError, ModelAccessor, Storage, StorageUnavailable

DEADLINE = 30

# From linux/socket.h and linux/net_tstamp.h; Python does not name them.
SO_TIMESTAMPING = 37
SOF_TIMESTAMPING_TX_SOFTWARE = 1 << 1
SOF_TIMESTAMPING_SOFTWARE = 1 << 4


@pytest.fixture(scope="module")
def primary() -> Iterator[Postgresql]:
    with server(Postgresql) as own:
        own.prepare()
        yield own


@pytest.fixture(scope="module")
def standby(primary: Postgresql) -> Iterator[Postgresql]:
    with server(Postgresql) as own:
        own.follow(primary)
        yield own


@pytest.fixture
def database(primary: Postgresql, standby: Postgresql, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of an empty database that both have."""
    name = f"test_{request.node.name.lower()[:50]}"
    primary.execute(f"CREATE DATABASE {name}")
    yield name
    standby.execute("SELECT pg_wal_replay_resume() WHERE pg_is_wal_replay_paused()")
    primary.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def open_pair(
    primary: Postgresql, standby: Postgresql, database: str, open_storage: Callable[..., Storage]
) -> Callable[..., Storage]:
    """Opens a storage on both; keyword arguments are settings."""

    def open_(**settings: Any) -> Storage:
        engine = {"connect_timeout_seconds": 2, **settings}
        urls = [f"{own.url.rpartition('/')[0]}/{database}" for own in (primary, standby)]
        return open_storage(urls[0], replica_urls=urls[1:], config={"engine": engine})

    return open_


def counters_of(storage: Storage) -> ModelAccessor[Counter]:
    return ModelAccessor(Counter, "counters", storage=storage)


def standby_engine(storage: Storage) -> Engine:
    return next(engine for engine in storage._backend.engines if engine is not storage.engine)


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """What is asked of the engine meanwhile, without our own questions for its position."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if "pg_control_system" not in statement:
            seen.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(engine, "before_cursor_execute", note)


def replica(storage: Storage) -> dict[str, Any]:
    [state] = storage.health().checks["database"]["replicas"]
    return state


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def break_socket(connection: psycopg.Connection) -> None:
    """While it waits for an answer, Linux reports an error on the socket; nothing else is wrong with it.

    A time stamp of what was sent is put where errors are.
    """
    with socket.socket(fileno=os.dup(connection.fileno())) as own:
        own.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPING, SOF_TIMESTAMPING_TX_SOFTWARE | SOF_TIMESTAMPING_SOFTWARE)


@contextmanager
def breaking_sockets(engine: Engine) -> Iterator[None]:
    """All those on which the engine asks something."""

    def break_(connection: Any, *_: object) -> None:
        break_socket(connection.connection.dbapi_connection)

    event.listen(engine, "before_cursor_execute", break_)
    try:
        yield
    finally:
        event.remove(engine, "before_cursor_execute", break_)


@pytest.fixture
def notices_broken_sockets(primary: Postgresql) -> None:
    """Skips the test where psycopg waits for answers and for nothing else, as its older versions do."""
    with closing(psycopg.connect(primary.url.replace("+psycopg", ""))) as connection:
        break_socket(connection)
        try:
            connection.execute("SELECT pg_sleep(0.2)")
        except psycopg.OperationalError:
            return
    pytest.skip("this psycopg does not hear of errors of sockets")


def is_read_from_standby(storage: Storage) -> bool:
    with statements(standby_engine(storage)) as seen:
        counters_of(storage).count()
    return bool(seen)


def test_reads_outside_of_a_transaction_go_to_the_standby_and_all_others_to_the_primary(open_pair):
    storage = open_pair()
    counters = counters_of(storage)
    counters.insert(Counter(value=1))
    wait_until(lambda: is_read_from_standby(storage))
    with statements(standby_engine(storage)) as there, statements(storage.engine) as here:
        assert counters.get(1).value == 1
        assert counters.find(value=1)
        with storage.use_session() as session:
            assert session.exec(select(Counter)).one().value == 1
        assert len(there) == 3
        assert here == []
        with storage.transaction():
            assert counters.get(1).value == 1
        # Backups, importers and whoever asks for a connection need the database as it is.
        with storage.snapshot() as connection:
            connection.execute(text("SELECT 1"))
        with storage.use_session() as session:
            session.connection().execute(text("SELECT 1"))
            # A stream that breaks could not be begun again.
            assert list(session.scalars(select(Counter.value).execution_options(yield_per=1))) == [1]
        assert len(there) == 3
        assert len(here) == 4


def test_a_read_never_misses_a_write_of_its_own_process(open_pair):
    storage = open_pair()
    counters = counters_of(storage)
    missed = 0
    with statements(standby_engine(storage)) as there, ThreadPoolExecutor(4) as pool:
        for _ in range(60):
            key = counters.insert(Counter()).id
            # From another thread too, as the next request comes.
            missed += pool.submit(counters.get, key).result() is None
            time.sleep(0.01)
        wait_until(lambda: is_read_from_standby(storage))
    assert missed == 0
    assert there


def test_a_session_that_began_on_the_standby_sees_what_another_thread_has_written_since(open_pair, standby):
    storage = open_pair()
    counters = counters_of(storage)
    wait_until(lambda: is_read_from_standby(storage))
    standby.execute("SELECT pg_wal_replay_pause()")
    with storage.use_session() as session, ThreadPoolExecutor(1) as pool:
        assert session.exec(select(Counter)).all() == []
        key = pool.submit(counters.insert, Counter()).result().id
        assert [counter.id for counter in session.exec(select(Counter))] == [key]


def test_writes_of_a_session_a_lock_and_a_plugins_connection_count_as_writes(open_pair, standby):
    storage = open_pair()
    counters = counters_of(storage)
    wait_until(lambda: is_read_from_standby(storage))
    standby.execute("SELECT pg_wal_replay_pause()")

    def in_a_session() -> None:
        with storage.use_session() as session:
            session.add(Counter())
            session.commit()
            assert session.exec(select(Counter)).all()

    def in_a_statement() -> None:
        with storage.use_session() as session:
            # The standby refuses it; then the primary does it.
            session.execute(text("INSERT INTO counter (value) VALUES (1)"))

    def in_a_plugin() -> None:
        with storage.write_connection() as connection, connection.begin():
            connection.execute(text("INSERT INTO counter (value) VALUES (1)"))

    for number, write in enumerate((in_a_session, in_a_statement, in_a_plugin), start=1):
        write()
        assert counters.count() == number
    time.sleep(0.2)
    assert counters.count() == 3
    assert replica(storage)["state"] == "behind"
    standby.execute("SELECT pg_wal_replay_resume()")
    wait_until(lambda: is_read_from_standby(storage))
    assert counters.count() == 3


def test_a_standby_that_is_too_far_behind_is_not_asked(open_pair, primary, standby, database):
    storage = open_pair(replica_lag_limit_seconds=0.4)
    wait_until(lambda: is_read_from_standby(storage))
    standby.execute("SELECT pg_wal_replay_pause()")
    primary.execute("INSERT INTO counter (value) VALUES (1)", database)
    counted = counters_of(storage).count
    deadline = time.monotonic() + DEADLINE
    while counted() == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    state = replica(storage)
    assert state["state"] == "behind"
    assert state["lag_seconds"] is None or state["lag_seconds"] > 0.4
    assert storage.health().ok
    standby.execute("SELECT pg_wal_replay_resume()")
    wait_until(lambda: is_read_from_standby(storage))
    wait_until(lambda: replica(storage)["state"] == "ok")


def test_an_idle_primary_makes_no_standby_old(open_pair):
    storage = open_pair(replica_lag_limit_seconds=0.2)
    wait_until(lambda: is_read_from_standby(storage))
    time.sleep(1)
    wait_until(lambda: is_read_from_standby(storage) and replica(storage)["lag_seconds"] < 0.2)


def test_no_read_fails_while_the_standby_is_killed_and_comes_back(open_pair, standby):
    storage = open_pair()
    users = ModelAccessor(User, "users", storage=storage)
    ana = users.insert(User(name="Ana", email="ana@example.com"))
    wait_until(lambda: is_read_from_standby(storage))
    stop = False
    reads = 0

    def read() -> int:
        count = 0
        while not stop:
            assert users.get(ana.id).name == "Ana"
            with storage.use_session() as session:
                assert session.exec(select(User.name)).all() == ["Ana"]
            count += 2
        return count

    with ThreadPoolExecutor(4) as pool:
        readers = [pool.submit(read) for _ in range(4)]
        try:
            time.sleep(0.3)
            standby.stop(signal.SIGQUIT)
            wait_until(lambda: replica(storage)["state"].startswith("cannot be asked: the database cannot be reached"))
            assert storage.health().ok
            standby.start()
            wait_until(lambda: is_read_from_standby(storage))
        finally:
            stop = True
        reads = sum(reader.result() for reader in readers)
    assert reads > 100
    wait_until(lambda: replica(storage)["state"] == "ok")


def test_a_read_goes_to_the_primary_where_the_standbys_socket_breaks_before_its_connection_knows(
    open_pair, notices_broken_sockets
):
    storage = open_pair()
    wait_until(lambda: is_read_from_standby(storage))
    with statements(standby_engine(storage)) as there, statements(storage.engine) as here:
        with breaking_sockets(standby_engine(storage)), storage.use_session() as session:
            assert session.exec(select(func.pg_is_in_recovery(), func.pg_sleep(0.2))).one()[0] is False
        assert len(there) == len(here) == 1
    wait_until(lambda: is_read_from_standby(storage))


def test_a_write_over_a_socket_that_breaks_says_that_it_may_be_stored(open_pair, notices_broken_sockets):
    storage = open_pair()
    counters = counters_of(storage)
    in_doubt = pytest.raises(StorageUnavailable, match="look whether the change is stored")
    with breaking_sockets(storage.engine), in_doubt, storage.transaction() as session:
        session.exec(select(func.pg_sleep(0.2)))
    assert counters.insert(Counter()).id == 1


def test_a_server_that_is_no_standby_of_this_database_is_not_asked(primary, standby, database, open_storage):
    url = f"{primary.url.rpartition('/')[0]}/{database}"
    storage = open_storage(url, replica_urls=[url])
    assert counters_of(storage).count() == 0
    assert replica(storage) == {"state": "not a standby", "lag_seconds": None}


def test_of_a_primary_and_a_standby_as_hosts_the_primary_is_used(primary, standby, database, open_storage):
    hosts = "&".join(f"host=127.0.0.1:{own.port}" for own in (standby, primary))
    storage = open_storage(f"postgresql://postgres@/{database}?{hosts}")
    assert counters_of(storage).insert(Counter()).id == 1


def test_replicas_can_be_configured_by_the_environment(primary, standby, database, open_storage, monkeypatch):
    url, other = (f"{own.url.rpartition('/')[0]}/{database}" for own in (primary, standby))
    monkeypatch.setenv("VSTORAGE_ENGINE__REPLICA_URLS", f"{other} postgresql://nobody@127.0.0.1:1/x")
    storage = open_storage(url)
    wait_until(
        lambda: [state["state"][:3] for state in storage.health().checks["database"]["replicas"]] == ["ok", "can"]
    )


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("standby:5432", "a URL of replica_urls is no database URL"),
        ("sqlite:///x.db", "the replica sqlite:///x.db of a PostgreSQL database is none itself"),
    ],
)
def test_a_replica_that_cannot_be_one_is_refused_at_once(url, message):
    with pytest.raises(ConfigurationError, match=message):
        Storage("postgresql://x@127.0.0.1:1/y", replica_urls=[url], entry_points=[])


def test_a_database_that_has_no_replicas_says_so(make_database, open_storage, caplog):
    storage = open_storage(make_database("sqlite"), replica_urls=["postgresql://standby/x"])
    assert "replica_urls is only for PostgreSQL; all reads go to this database" in caplog.text
    assert counters_of(storage).insert(Counter()).id == 1


def test_the_answer_of_a_session_that_has_records_already_is_not_pieced_together(open_pair, standby):
    storage = open_pair()
    counters = counters_of(storage)
    counters.insert(Counter(value=1))
    wait_until(lambda: is_read_from_standby(storage))
    try:
        with pytest.raises(StorageUnavailable), storage.use_session() as session:
            known = session.exec(select(Counter)).one()
            standby.stop(signal.SIGQUIT)
            session.exec(select(Counter)).all()
        assert known.value == 1
        assert counters.count() == 1
    finally:
        standby.start()
