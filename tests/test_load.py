"""Many threads on slow flash, on the same rows, in process and over HTTP, and readers that never pause."""

from __future__ import annotations

import os
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from apsw_driver import sqlite_on
from disks import FullDisk, SlowDisk
from models import Counter, User
from recovery import lost, read_whole
from workload import Acknowledgement, Client, share_counters

from vstorage_core import ModelAccessor, RecordDeleted, Storage

THREADS = 32


class Clients:
    """Runs one function per thread again and again for a while; knows how long each call took."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self.durations: list[list[float]] = []
        self.failures: list[BaseException] = []

    def run(self, calls: list[Callable[[], None]]) -> None:
        self.durations = [[] for _ in calls]
        with ThreadPoolExecutor(len(calls)) as pool:
            list(pool.map(self._repeat, calls, self.durations))

    def _repeat(self, call: Callable[[], None], durations: list[float]) -> None:
        while time.monotonic() < self._end:
            began = time.monotonic()
            try:
                call()
            # Every failure counts, whatever it is.
            except Exception as error:
                self.failures.append(error)
            durations.append(time.monotonic() - began)

    @property
    def slowest(self) -> int:
        return min(map(len, self.durations))

    @property
    def median(self) -> float:
        return statistics.median(map(len, self.durations))

    def percentile(self, percent: int) -> float:
        every = sorted(duration for durations in self.durations for duration in durations)
        return every[min(len(every) * percent // 100, len(every) - 1)]

    def __str__(self) -> str:
        return (
            f"{sum(map(len, self.durations))} writes by {len(self.durations)} clients, {len(self.failures)} failures,"
            f" p50 {self.percentile(50):.3f} s, p99 {self.percentile(99):.3f} s, longest {self.percentile(100):.3f} s;"
            f" the slowest client made {self.slowest}, the median one {self.median:g}"
        )


def write_on_slow_flash(path: Path, way: str, seconds: float) -> Clients:
    """Let 32 clients write where every sync takes 20 ms; all that they were told must be there afterwards."""
    acknowledged: list[Acknowledgement] = []
    with SlowDisk(0.02) as disk, sqlite_on(disk), Storage(f"sqlite:///{path}", entry_points=[]) as storage:
        storage.allows_direct_rows = way == "direct"
        storage.create_tables()
        acknowledged.append(share_counters(storage, 1))
        writers = [Client(storage, number, 1) for number in range(1, THREADS + 1)]
        before = disk.syncs
        clients = Clients(seconds)
        clients.run([lambda writer=writer: acknowledged.append(writer.operate()) for writer in writers])
        syncs = disk.syncs - before
    print(f"\n20 ms per sync, {way}: {clients}, {syncs} syncs")
    # Each of them was synced: otherwise the disk was not slow.
    assert syncs >= sum(bool(operation.effects) for operation in acknowledged[1:])
    assert clients.failures == []
    assert lost(read_whole(path).trail, acknowledged) == []
    return clients


@pytest.mark.parametrize("way", ["direct", "unit_of_work"])
def test_32_clients_on_slow_flash_never_fail(tmp_path, way):
    assert write_on_slow_flash(tmp_path / "machine.db", way, 2.5).slowest >= 1


@pytest.mark.soak
@pytest.mark.parametrize("way", ["direct", "unit_of_work"])
def test_32_clients_on_slow_flash_never_fail_and_none_starves_for_a_minute(tmp_path, way):
    clients = write_on_slow_flash(tmp_path / "machine.db", way, 60)
    assert clients.slowest * 3 >= clients.median
    assert clients.percentile(99) < 1.5


# By actor, how many audit rows there must be at least and at most.
Expected = dict[str, tuple[int, int]]


class Rival:
    """Writes to the same few users as all others; keeps how many audit rows each of its calls must have left."""

    def __init__(self, storage: Storage, number: int, users: list[int]) -> None:
        self._accessor = ModelAccessor(User, "users", storage=storage)
        self._number = number
        self._random = Random(number)
        self._users = users
        self._calls = 0
        self.rows: Expected = {}

    def write(self) -> None:
        self._calls += 1
        actor = name = f"{self._number}.{self._calls}"
        key, users = self._random.choice(self._users), self._accessor
        way = self._random.choice(["update", "save", "modify", "delete", "restore", "restore", "insert"])
        least = most = 1
        try:
            if way == "update":
                least = most = int(users.update(key, name=name, actor=actor) is not None)
            elif way == "save":
                users.save(User(id=key, name=name, email=f"{key}@example.com"), actor=actor)
            elif way == "modify":
                with users.storage.transaction():
                    user = users.get(key)
                    least = most = int(user is not None)
                    if user is not None:
                        user.name += "!" if len(user.name) < 50 else ""
                        user.age = (user.age or 0) + 1
                        users.save(user, actor=actor)
            elif way == "delete":
                least = most = users.delete_many([key], actor=actor)
            elif way == "restore":
                users.restore(key, actor=actor)
                # It may have been live.
                least = 0
            else:
                users.insert(User(name=name, email=f"{name}@example.com"), actor=actor)
        except RecordDeleted:
            least = most = 0
        self.rows[actor] = (least, most)


def write_the_same_rows(path: Path, way: str, seconds: float) -> None:
    with Storage(f"sqlite:///{path}", entry_points=[]) as storage:
        storage.allows_direct_rows = way == "direct"
        storage.create_tables()
        users = ModelAccessor(User, "users", storage=storage)
        keys = [users.insert(User(name="", email=f"{number}@example.com")).id for number in range(1, 5)]
        rivals = [Rival(storage, number, keys) for number in range(1, THREADS + 1)]
        clients = Clients(seconds)
        clients.run([rival.write for rival in rivals])
    print(f"\nthe same rows, {way}: {clients}")
    assert clients.failures == []
    assert_chain(path, [rival.rows for rival in rivals])


def assert_chain(path: Path, expected: list[Expected]) -> None:
    # Reads the chain: every `before` is the previous `after`, and the last `after` is what is stored.
    stored = Tally(row.actor for row in read_whole(path).trail)
    for rows in expected:
        for actor, (least, most) in rows.items():
            assert least <= stored[actor] <= most, actor


@pytest.mark.parametrize("way", ["direct", "unit_of_work"])
def test_32_threads_that_write_the_same_rows_leave_a_chain_without_gaps(tmp_path, way):
    write_the_same_rows(tmp_path / "machine.db", way, 1.5)


@pytest.mark.soak
@pytest.mark.parametrize("way", ["direct", "unit_of_work"])
def test_32_threads_that_write_the_same_rows_for_a_minute_leave_a_chain_without_gaps(tmp_path, way):
    write_the_same_rows(tmp_path / "machine.db", way, 60)


@contextmanager
def served(path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The models of the tests behind `vstorage serve` in a process of its own; gives its address."""
    command = [
        Path(sys.executable).with_name("vstorage"),
        "serve",
        "models",
        "--port",
        "0",
        "--url",
        f"sqlite:///{path}",
    ]
    # Hooks of the examples take the slower path.
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "VSTORAGE_DISABLED_PLUGINS": "hello"}
    log = path.with_suffix(".log")
    with (
        log.open("w") as errors,
        subprocess.Popen(
            command, cwd=Path(__file__).parent, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True
        ) as server,
    ):
        try:
            lines = iter(server.stdout.readline, "Ctrl-C stops.\n")
            addresses = [found[0] for line in lines if (found := re.search(r"http://[\w.:]+(?=/docs)", line))]
            assert addresses, log.read_text()
            yield addresses[0], server
        finally:
            server.kill()


class Caller:
    """Writes to the same few users as all others, over HTTP; keeps how many audit rows each call must have left."""

    def __init__(self, address: str, number: int, users: list[int]) -> None:
        self._client = httpx.Client(base_url=address, timeout=60)
        self._number = number
        self._random = Random(number)
        self._users = users
        self._calls = 0
        self.answers: Tally[int] = Tally()
        self.rows: Expected = {}

    def write(self) -> None:
        self._calls += 1
        actor = name = f"{self._number}.{self._calls}"
        key, *others = self._random.sample(self._users, 3)
        way = self._random.choice(
            ["create", "put", "patch", "read_change_write", "delete", "restore", "restore", "batch"]
        )
        rows = 1
        if way == "create":
            answer = self._send(actor, "POST", "/", {"name": name, "email": f"{name}@example.com"})
        elif way == "put":
            answer = self._send(actor, "PUT", f"/{key}", {"name": name, "email": f"{name}@example.com", "age": 1})
        elif way == "patch":
            answer = self._send(actor, "PATCH", f"/{key}", {"name": name})
        elif way == "read_change_write":
            read = self._send(actor, "GET", f"/{key}", None)
            if read.status_code != 200:
                return
            changed = {"name": name, "age": (read.json()["age"] or 0) + 1}
            answer = self._send(actor, "PATCH", f"/{key}", changed, **{"If-Match": read.headers["ETag"]})
        elif way == "delete":
            answer = self._send(actor, "DELETE", f"/{key}", None)
        elif way == "restore":
            answer = self._send(actor, "POST", f"/{key}/restore", None)
            rows = int(answer.json().get("restored", False))
        else:
            rows = 1 + len(others)
            answer = self._send(actor, "PATCH", "/batch", [{"id": one, "name": name} for one in [key, *others]])
        if not answer.is_success:
            rows = 0
        self.rows[actor] = (rows, rows)

    def _send(self, actor: str, method: str, path: str, body: Any, **headers: str) -> httpx.Response:
        answer = self._client.request(method, f"/users{path}", json=body, headers={"X-User": actor, **headers})
        self.answers[answer.status_code] += 1
        assert answer.status_code in (200, 201, 404, 409, 412), answer.text
        return answer

    def close(self) -> None:
        self._client.close()


def write_the_same_rows_over_http(path: Path, seconds: float) -> None:
    with served(path) as (address, server):
        first = Caller(address, 0, [])
        keys = [
            first._send("0", "POST", "/", {"name": "", "email": f"{number}@example.com"}).json()["id"]
            for number in range(4)
        ]
        callers = [first, *(Caller(address, number, keys) for number in range(1, THREADS + 1))]
        clients = Clients(seconds)
        clients.run([caller.write for caller in callers[1:]])
        for caller in callers:
            caller.close()
        # What it has acknowledged must not need an orderly end.
        server.send_signal(signal.SIGKILL)
    answers = sum((caller.answers for caller in callers), Tally())
    print(f"\nthe same rows over HTTP: {clients}; answers {dict(sorted(answers.items()))}")
    assert clients.failures == []
    assert_chain(path, [caller.rows for caller in callers])


def test_32_clients_over_http_that_write_the_same_rows_lose_nothing_and_leave_a_chain_without_gaps(tmp_path):
    write_the_same_rows_over_http(tmp_path / "machine.db", 3)


@pytest.mark.soak
def test_32_clients_over_http_that_write_the_same_rows_for_a_minute_lose_nothing(tmp_path):
    write_the_same_rows_over_http(tmp_path / "machine.db", 60)


LIMIT_BYTES = 512 * 1024


def open_with_small_log(path: Path) -> tuple[Storage, ModelAccessor[Counter]]:
    storage = Storage(
        f"sqlite:///{path}", entry_points=[], config={"engine": {"journal_size_limit_bytes": LIMIT_BYTES}}
    )
    storage.create_tables()
    return storage, ModelAccessor(Counter, "counters", storage=storage)


def write_under_constant_readers(path: Path, writes: int) -> None:
    log = Path(f"{path}-wal")
    stop = threading.Event()
    storage, counters = open_with_small_log(path)
    reads = [0] * 4

    def read(number: int) -> None:
        while not stop.is_set():
            with storage.snapshot() as connection:
                connection.exec_driver_sql("SELECT count(*) FROM counter")
                # Holds its snapshot for a while, so that there is never a moment without a reader.
                stop.wait(0.01 * number)
            reads[number] += 1

    with storage, ThreadPoolExecutor(len(reads)) as pool:
        readers = [pool.submit(read, number) for number in range(len(reads))]
        sizes = []
        try:
            for number in range(writes):
                counters.insert_many([Counter(value=number) for _ in range(5)])
                sizes.append(log.stat().st_size)
        finally:
            stop.set()
        for reader in readers:
            reader.result()
    grown = sum(max(0, after - before) for before, after in pairwise(sizes))
    print(f"\n{writes} writes under {sum(reads)} reads: {grown} bytes of log, at most {max(sizes)} at a time")
    assert all(reads)
    assert grown > 3 * LIMIT_BYTES
    assert max(sizes) < 2 * LIMIT_BYTES
    read_whole(path)


def test_the_log_stays_small_under_constant_readers(tmp_path):
    write_under_constant_readers(tmp_path / "machine.db", 150)


@pytest.mark.soak
def test_the_log_stays_small_under_constant_readers_for_long(tmp_path):
    write_under_constant_readers(tmp_path / "machine.db", 5_000)


def test_the_log_is_cut_when_a_long_reader_has_gone(tmp_path):
    path = tmp_path / "machine.db"
    log = Path(f"{path}-wal")
    storage, counters = open_with_small_log(path)
    with storage:
        with storage.snapshot() as connection:
            while log.stat().st_size < LIMIT_BYTES * 5 // 4:
                counters.insert(Counter())
            assert connection.exec_driver_sql("SELECT count(*) FROM counter").scalar() == 0
        longest = log.stat().st_size
        while log.stat().st_size >= longest:
            counters.insert(Counter())
            longest = max(longest, log.stat().st_size)
            assert longest < 2 * LIMIT_BYTES
        assert log.stat().st_size < LIMIT_BYTES


@pytest.mark.parametrize("way", ["direct", "unit_of_work"])
def test_a_write_that_is_stored_is_acknowledged_where_the_log_cannot_be_written_back(tmp_path, caplog, way):
    path = tmp_path / "machine.db"
    log = Path(f"{path}-wal")
    heard = []
    with FullDisk() as disk, sqlite_on(disk):
        storage, counters = open_with_small_log(path)
        storage.allows_direct_rows = way == "direct"
        counters.after_commit()(heard.extend)
        with storage:
            disk.is_full = True
            while log.stat().st_size < LIMIT_BYTES:
                counters.insert(Counter())
            assert "cannot be written back" in caplog.text
            disk.is_full = False
            while log.stat().st_size >= LIMIT_BYTES:
                counters.insert(Counter())
            assert counters.count() == len(heard)
    read_whole(path)
