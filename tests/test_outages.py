"""Servers that are restarted or killed while 32 threads write: clean errors, nothing acknowledged is lost."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any

import pymysql
import pytest
from models import Counter
from servers import GaleraNode, Mariadb, Postgresql, Server, free_port, server

from vstorage_core import ModelAccessor, Storage, StorageUnavailable, TransactionConflict

THREADS = 32
DEADLINE = 60


class Writers:
    """Threads that insert one number after the other, and remember which ones were acknowledged.

    Attributes:
        acknowledged: These numbers.
        refused: The errors of those that were not.
        unexpected: Errors that an application could not understand.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.counters = ModelAccessor(Counter, "counters", storage=storage)
        self.acknowledged: list[list[int]] = [[] for _ in range(THREADS)]
        self.refused: list[StorageUnavailable] = []
        self.unexpected: list[BaseException] = []
        self._stop = threading.Event()

    @contextmanager
    def running(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._write, args=[number]) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(DEADLINE)
        assert not any(thread.is_alive() for thread in threads)

    def _write(self, number: int) -> None:
        for value in range(number, 10**9, THREADS):
            if self._stop.is_set():
                return
            try:
                self.counters.insert(Counter(value=value))
                self.acknowledged[number].append(value)
            except StorageUnavailable as error:
                self.refused.append(error)
                self._stop.wait(0.05)
            # Whatever it is, it is none of the errors that say: try again.
            except Exception as error:
                self.unexpected.append(error)
                return

    def wait_for_more(self) -> None:
        """Until every thread has written again."""
        before = [len(values) for values in self.acknowledged]
        deadline = time.monotonic() + DEADLINE
        while any(len(now) <= then for now, then in zip(self.acknowledged, before, strict=True)):
            assert time.monotonic() < deadline, (self.refused[-1:], self.unexpected)
            assert not self.unexpected
            time.sleep(0.05)

    def check(self) -> None:
        assert self.unexpected == []
        values = {value for values in self.acknowledged for value in values}
        stored = [counter.value for counter in self.counters.iterate()]
        assert len(stored) == len(set(stored))
        assert set(stored) >= values
        # What is stored without having been acknowledged is what was being committed when the server went.
        in_doubt = sum("look whether the change is stored" in str(error) for error in self.refused)
        assert len(stored) - len(values) <= in_doubt
        with self.storage.snapshot() as connection:
            trail = connection.exec_driver_sql("SELECT count(*), count(DISTINCT record_id) FROM auditlog").one()
        assert tuple(trail) == (len(stored), len(stored))
        print(f"\n{len(values)} acknowledged, {len(self.refused)} refused, {len(stored) - len(values)} stored besides")


def restart_under_load(kind: type[Server], restart: Callable[[Any], None], times: int) -> None:
    config = {"engine": {"connect_timeout_seconds": 2}}
    with server(kind) as own:
        own.prepare()
        with Storage(own.url, entry_points=[], config=config) as storage:
            storage.create_tables()
            writers = Writers(storage)
            with writers.running():
                for _ in range(times):
                    writers.wait_for_more()
                    restart(own)
                    writers.wait_for_more()
            assert writers.refused
            writers.check()
            assert storage.health().ok


def test_postgresql_is_restarted_under_32_writers_and_loses_nothing_that_was_acknowledged():
    def restart(own: Postgresql) -> None:
        own.stop(signal.SIGQUIT)
        own.start()

    restart_under_load(Postgresql, restart, 1)


@pytest.mark.soak
@pytest.mark.parametrize("kind", [Postgresql, Mariadb])
def test_a_server_that_is_restarted_again_and_again_loses_nothing(kind):
    random = Random(7)
    ways = {
        # Politely, at once with a rollback of everything, and as a power cut of the process would.
        Postgresql: [signal.SIGINT, signal.SIGQUIT],
        Mariadb: [signal.SIGTERM, signal.SIGKILL],
    }[kind]

    def restart(own: Server) -> None:
        time.sleep(random.random() * 2)
        own.stop(random.choice(ways))
        time.sleep(random.random() * 2)
        own.start()

    restart_under_load(kind, restart, 20)


@contextmanager
def galera() -> Iterator[list[GaleraNode]]:
    """A cluster of three nodes."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(server(GaleraNode)) for _ in range(3)]
        cluster = {f"node{number}": free_port() for number in range(3)}
        for name, node in zip(cluster, nodes, strict=True):
            node.join(name, {"ist": free_port(), "sst": free_port()}, cluster)
        nodes[0].prepare("--wsrep-new-cluster")
        for node in nodes[1:]:
            node.start()
        yield nodes


def members(node: GaleraNode) -> int:
    return int(
        node.execute(
            "SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'wsrep_cluster_size'"
        )
    )


def url_of_all(nodes: list[GaleraNode]) -> str:
    return "mysql://root@/machine?" + "&".join(f"host=127.0.0.1:{node.port}" for node in nodes)


@pytest.mark.soak
def test_a_cluster_whose_nodes_are_killed_one_after_the_other_loses_nothing():
    config = {"engine": {"connect_timeout_seconds": 2}}
    with galera() as nodes, Storage(url_of_all(nodes), entry_points=[], config=config) as storage:
        storage.create_tables()
        writers = Writers(storage)
        with writers.running():
            for node in [*nodes, nodes[0]]:
                writers.wait_for_more()
                node.stop(signal.SIGKILL)
                killed_at = time.monotonic()
                writers.wait_for_more()
                print(f"\n{node.port}: all threads write again after {time.monotonic() - killed_at:.1f} s")
                node.start()
        assert writers.refused
        writers.check()
        counts = {node.execute("SELECT count(*) FROM counter", "machine") for node in nodes}
        assert counts == {writers.counters.count()}
        assert {members(node) for node in nodes} == {3}


@pytest.mark.soak
def test_a_cluster_without_a_majority_refuses_and_goes_on_once_it_has_one_again():
    config = {"engine": {"connect_timeout_seconds": 2, "timeout_seconds": 3}}
    with galera() as nodes, Storage(url_of_all(nodes), entry_points=[], config=config) as storage:
        storage.create_tables()
        writers = Writers(storage)
        with writers.running():
            writers.wait_for_more()
            for node in nodes[:2]:
                node.stop(signal.SIGKILL)
            refused = len(writers.refused)
            while len(writers.refused) < refused + 2 * THREADS:
                time.sleep(0.1)
            print(f"\n{ {str(error) for error in writers.refused} }")
            # The one that is left knows the most: it becomes the cluster that the others join.
            with pymysql.connect(host="127.0.0.1", port=nodes[2].port, user="root").cursor() as cursor:
                cursor.execute("SET GLOBAL wsrep_provider_options = 'pc.bootstrap=YES'")
            writers.wait_for_more()
            for node in nodes[:2]:
                node.start()
            writers.wait_for_more()
        writers.check()


@pytest.mark.soak
def test_the_nodes_of_a_cluster_keep_locks_and_changes_of_the_same_record_apart():
    with galera() as nodes, ExitStack() as stack:
        storages = [stack.enter_context(Storage(node.url, entry_points=[])) for node in nodes]
        storages[0].create_tables()
        counters = [ModelAccessor(Counter, "counters", storage=storage) for storage in storages]
        conflicts = []

        def until_done(write: Callable[[], None]) -> None:
            while True:
                try:
                    write()
                except TransactionConflict as error:
                    conflicts.append(error)
                else:
                    return

        def insert_if_none(own: ModelAccessor[Counter]) -> None:
            with own.storage.transaction():
                own.storage.lock("counters")
                if own.count() == 0:
                    own.insert(Counter())

        def increment(own: ModelAccessor[Counter]) -> None:
            with own.storage.transaction():
                counter = own.get(key)
                counter.value += 1
                own.save(counter)

        with ThreadPoolExecutor(12) as pool:
            for _ in range(10):
                list(pool.map(until_done, [lambda own=own: insert_if_none(own) for own in counters * 4]))
                [counter] = counters[0].all()
                counters[0].delete(counter.id)
            key = counters[0].insert(Counter()).id
            time.sleep(1)
            list(pool.map(until_done, [lambda own=own: increment(own) for own in counters * 50]))
        time.sleep(1)
        assert {own.get(key).value for own in counters} == {150}
        print(f"\n{len(conflicts)} conflicts in 120 locks and 150 changes of one record through 3 nodes")
