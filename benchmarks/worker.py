"""One operation by one contender in a process of its own; prints what it cost as a line of JSON."""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.rows import make_rows

_WARM_UP = 20


class Meter:
    """Measures one stretch of work.

    Attributes:
        result: CPU time of the process per unit, time on the clock per unit (of single calls the median), how much
            the process grew at most.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self.result: dict[str, float] = {}

    def each(self, function: Callable[[Any], Any], items: Iterable[Any]) -> None:
        """Measure the function called with each item."""
        items = list(items)
        times: list[float] = []

        def run(part: Sequence[Any]) -> None:
            for item in part:
                began = time.perf_counter()
                function(item)
                times.append(time.perf_counter() - began)

        def work() -> None:
            if self._threads == 1:
                run(items)
                return
            with ThreadPoolExecutor(self._threads) as pool:
                list(pool.map(run, [items[start :: self._threads] for start in range(self._threads)]))

        self.once(work, units=len(items))
        self.result["wall_us"] = statistics.median(times) * 1e6

    def once(self, function: Callable[[], Any], *, units: int = 1) -> None:
        """Measure one call, as so many units of work."""
        gc.collect()
        # What was written before is not to compete for the disk.
        os.sync()
        before_kb = _start_counting_memory()
        cpu, wall = time.process_time(), time.perf_counter()
        function()
        self.result["wall_us"] = (time.perf_counter() - wall) / units * 1e6
        self.result["cpu_us"] = (time.process_time() - cpu) / units * 1e6
        self.result["growth_mb"] = (_memory_kb("VmHWM") - before_kb) / 1024


def _start_counting_memory() -> int:
    # Sets the high-water mark back to what is used now: proc_pid_clear_refs(5).
    Path("/proc/self/clear_refs").write_text("5")
    return _memory_kb("VmRSS")


def _memory_kb(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1])


class Work:
    """The operations, by the name that `Operation.work` gives."""

    def __init__(self, contender: Any, job: dict[str, Any], meter: Meter) -> None:
        self._contender = contender
        self._count: int = job["count"]
        self._users: int = job["users"]
        self._offset: int = job["offset"]
        self._file = Path(job["database"] + ".out")
        self._meter = meter

    def _rows(self, seed: int = 1) -> tuple[list[Any], list[Any]]:
        rows = make_rows(self._count + _WARM_UP, zone=self._contender.zone, first=self._users + 1, seed=seed)
        return rows[:_WARM_UP], rows[_WARM_UP:]

    def _keys(self) -> tuple[list[int], list[int]]:
        keys = random.Random(3).sample(range(1, self._users + 1), min(self._count + _WARM_UP, self._users))
        return keys[:_WARM_UP], keys[_WARM_UP:]

    def insert(self) -> None:
        first, rows = self._rows()
        for row in first:
            self._contender.insert(row)
        self._meter.each(self._contender.insert, rows)

    def insert_joined(self) -> None:
        first, rows = self._rows()
        self._contender.insert_in_one_transaction(first)
        self._meter.once(lambda: self._contender.insert_in_one_transaction(rows), units=len(rows))

    def insert_many(self) -> None:
        first, rows = self._rows()
        self._contender.insert_many(first)
        self._meter.once(lambda: self._contender.insert_many(rows), units=len(rows))

    def get(self) -> None:
        first, keys = self._keys()
        assert all(self._contender.get(key) is not None for key in first)
        self._meter.each(self._contender.get, random.Random(4).choices(keys, k=self._count))

    def all(self) -> None:
        assert len(self._contender.all()) == self._users
        self._meter.each(lambda _: self._contender.all(), range(self._count))

    def page(self) -> None:
        assert len(self._contender.page(None)) == 100
        self._meter.each(self._contender.page, range(self._count))

    def save(self) -> None:
        first, rows = self._rows(seed=9)
        first_keys, keys = self._keys()
        for key, row in zip(first_keys, first):  # noqa: B905 (equally long)
            self._contender.save(key, row)
        self._meter.each(lambda pair: self._contender.save(*pair), zip(keys * len(rows), rows))  # noqa: B905

    def delete(self) -> None:
        first, keys = self._keys()
        for key in first:
            self._contender.delete(key)
        self._meter.each(self._contender.delete, keys)

    def delete_many(self) -> None:
        self._contender.delete(self._users)
        keys = list(range(1, min(self._count, self._users)))
        self._meter.once(lambda: self._contender.delete_many(keys), units=len(keys))

    def audit(self) -> None:
        place = self._contender.audit_place(self._offset)
        began = time.perf_counter()
        assert self._contender.audit_page(place) == 100
        # Without an index a page takes seconds.
        count = self._count if time.perf_counter() - began < 0.1 else 3
        self._meter.each(self._contender.audit_page, [place] * count)

    def export_csv(self) -> None:
        self._meter.once(lambda: self._contender.export_csv(self._file))

    def import_csv(self) -> None:
        """Into an empty database what this one exports."""
        self._contender.export_users(self._file)
        empty = type(self._contender)(self._file.with_suffix(".empty"))
        empty.create_tables()
        self._meter.once(lambda: empty.import_users(self._file), units=self._users)
        empty.close()

    def backup(self) -> None:
        self._meter.once(lambda: self._contender.backup(self._file))

    def restore(self) -> None:
        self._contender.backup(self._file)
        self._meter.once(lambda: self._contender.restore(self._file))

    def restore_new(self) -> None:
        """Into a database that has nothing of it."""
        self._contender.backup(self._file)
        empty = type(self._contender)(self._file.with_suffix(".empty"))
        empty.create_tables()
        self._meter.once(lambda: empty.restore(self._file))
        empty.close()

    def flash(self) -> None:
        """Bytes that the kernel was given to write to the disk by saves, until the database is closed."""
        _, rows = self._rows(seed=9)
        for row in make_rows(10, zone=self._contender.zone):
            self._contender.insert(row)
        before = _written_bytes()
        for number, row in enumerate(rows):
            self._contender.save(number % 10 + 1, row)
        self._contender.close()
        self._meter.result["written_bytes"] = _written_bytes() - before

    def script(self) -> None:
        """A bit of everything, to compare what it leaves in the database."""
        rows = make_rows(60, zone=self._contender.zone)
        for row in rows[:10]:
            self._contender.insert(row)
        self._contender.insert_in_one_transaction(rows[10:20])
        self._contender.insert_many(rows[20:40])
        for key, row in zip((3, 11, 25), rows[40:]):  # noqa: B905 (three of them)
            self._contender.save(key, row)
        self._contender.delete(4)
        self._contender.delete_many([5, 12, 33])


def _written_bytes() -> int:
    found = re.search(r"^write_bytes: (\d+)", Path("/proc/self/io").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1])


def main() -> None:
    job = json.loads(sys.argv[1])
    contender = importlib.import_module(f"benchmarks.contenders.{job['contender']}").Contender(
        Path(job["database"]), job["durability"]
    )
    meter = Meter(job["threads"])
    contender.create_tables()
    if job["work"] != "create_tables":
        getattr(Work(contender, job, meter), job["work"])()
    contender.close()
    print(json.dumps(meter.result))


if __name__ == "__main__":
    main()
