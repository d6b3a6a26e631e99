"""Runs jobs in fresh processes, in rounds: in each one every contender once, so that a busy machine is busy for all."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from benchmarks.operations import Operation
from benchmarks.rows import content, fill

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = {"backup", "cli", "csv", "diagram", "rest"}
ORIGINAL_VARIABLE = "VSTORAGE_BENCH_ORIGINAL"
Rounds = dict[str, list[dict[str, float]]]
ResultT = TypeVar("ResultT")


def contenders() -> dict[str, str]:
    """The Python of each contender."""
    found = dict.fromkeys(("vstorage", "raw", "sqlmodel", "unit_of_work"), sys.executable)
    original = os.environ.get(ORIGINAL_VARIABLE)
    return {**found, "original": original} if original else found


def environment(**more: str) -> dict[str, str]:
    """Variables of a child, in which vstorage has the plugins of this project and no others."""
    # Hooks take the slower path, and the examples that the development environment has bring some.
    others = {plugin.name for plugin in metadata.entry_points(group="vstorage.plugins")} - PLUGINS
    return {**os.environ, "PYTHONPATH": str(ROOT), "VSTORAGE_DISABLED_PLUGINS": ",".join(sorted(others)), **more}


def in_turn(names: Sequence[str], number: int) -> list[str]:
    """The names in the order of that round; each round begins with another one."""
    shift = number % len(names)
    return [*names[shift:], *names[:shift]]


def interleave(names: Sequence[str], rounds: int, run: Callable[[str], ResultT]) -> dict[str, list[ResultT]]:
    """The results of `run` by name, one per round."""
    results: dict[str, list[ResultT]] = {name: [] for name in names}
    for number in range(rounds):
        for name in in_turn(names, number):
            results[name].append(run(name))
    return results


def ratio(rounds: Rounds, above: str, below: str, measure: str) -> float | None:
    """The median of the ratios of each round."""
    if not rounds.get(above) or not rounds.get(below):
        return None
    pairs = zip(rounds[above], rounds[below], strict=True)
    return statistics.median(one[measure] / other[measure] for one, other in pairs)


def median(runs: list[dict[str, float]], measure: str) -> float:
    return statistics.median(run[measure] for run in runs)


class Bench:
    """Folders for databases, in memory and on disk, and what is needed to run a job.

    Args:
        short: Whether the small counts are used, once.
    """

    def __init__(self, memory: Path, disk: Path, rounds: int, *, short: bool) -> None:
        self.memory = memory
        self.disk = disk
        self.rounds = rounds
        self.short = short
        self.pythons = contenders()

    def measure(self, operation: Operation) -> Rounds:
        """The operation by every contender."""
        names = [name for name in self.pythons if name in operation.contenders]
        rounds = min(self.rounds, operation.most_rounds)
        return interleave(names, rounds, lambda name: self.run(name, operation))

    def run(
        self,
        contender: str,
        operation: Operation,
        *,
        durability: str | None = None,
        threads: int = 1,
        disk: bool = False,
    ) -> dict[str, float]:
        """One run of the operation; returns what the worker prints."""
        folder = self.disk if operation.wall or disk else self.memory
        with tempfile.TemporaryDirectory(dir=folder) as work:
            database = Path(work) / "bench.db"
            if operation.users or operation.audited:
                shutil.copyfile(self.filled(contender, operation.users, operation.audited), database)
            count = operation.short_count if self.short else operation.count
            return self._work(
                contender, operation.work, database, count=count, users=operation.users, offset=operation.offset,
                durability=durability, threads=threads,
            )  # fmt: skip

    def filled(self, contender: str, users: int, audited: int) -> Path:
        """A database of the contender with so many rows, to be copied."""
        path = self.memory / f"{contender}-{users}-{audited}.db"
        if not path.exists():
            self._work(contender, "create_tables", path)
            fill(path, users, audited)
        return path

    def drop_filled(self) -> None:
        """Make room."""
        for path in self.memory.glob("*.db*"):
            path.unlink()

    def _work(self, contender: str, work: str, database: Path, **details: Any) -> dict[str, float]:
        job = {"count": 0, "users": 0, "offset": 0, "durability": None, "threads": 1, **details}
        job |= {"contender": contender, "work": work, "database": str(database)}
        command = [self.pythons[contender], "-W", "ignore", "-m", "benchmarks.worker", json.dumps(job)]
        child = subprocess.run(command, env=environment(), cwd=ROOT, capture_output=True, text=True, check=False)
        if child.returncode:
            raise RuntimeError(f"{contender} cannot {work}: {child.stderr.strip()[-2000:]}")
        result: dict[str, float] = json.loads(child.stdout.splitlines()[-1])
        return result

    def check_equal(self) -> None:
        """Let every contender do the same and see that it leaves the same rows and audit trail.

        Raises:
            AssertionError: It does not; then the figures compare different things.
        """
        left = {}
        with tempfile.TemporaryDirectory(dir=self.memory) as work:
            for name in self.pythons:
                database = Path(work) / f"{name}.db"
                self._work(name, "script", database)
                left[name] = content(database)
        for name, (users, trail) in left.items():
            expected_users, expected_trail = left["raw"]
            assert users == expected_users, f"rows of {name}: {_difference(users, expected_users)}"
            assert trail == expected_trail, f"audit trail of {name}: {_difference(trail, expected_trail)}"

    def import_times(self) -> Rounds:
        """CPU time that the import of SQLModel and of the core take."""
        code = (
            "import json, time; began = time.process_time(); import {}\n"
            "print(json.dumps({{'cpu_us': (time.process_time() - began) * 1e6}}))"
        )

        def run(module: str) -> dict[str, float]:
            command = [sys.executable, "-c", code.format(module)]
            result: dict[str, float] = json.loads(subprocess.check_output(command, env=environment(), cwd=ROOT))
            return result

        return interleave(["sqlmodel", "vstorage_core"], 2 if self.short else 9, run)


def _difference(one: list[Any], other: list[Any]) -> str:
    pairs = [pair for pair in zip(one, other, strict=False) if pair[0] != pair[1]]
    return f"{len(one)} against {len(other)}; first difference {pairs[:1]}"


@contextmanager
def open_bench(rounds: int, *, short: bool) -> Iterator[Bench]:
    """A bench whose folders are removed at the end."""
    shared = Path("/dev/shm")
    with (
        tempfile.TemporaryDirectory(prefix="vstorage-bench-", dir=shared if shared.is_dir() else None) as memory,
        tempfile.TemporaryDirectory(prefix="vstorage-bench-") as disk,
    ):
        yield Bench(Path(memory), Path(disk), rounds, short=short)
