"""kill -9 in the middle of writes: nothing acknowledged is lost, nothing is half."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import pytest
from models import Counter
from recovery import Found, lost, read_whole
from workload import Acknowledgement, Client, share_counters

from vstorage_core import ModelAccessor, Storage

WORKER = Path(__file__).with_name("kill_worker.py")


@dataclass
class Victim:
    """A database whose writers are killed one after the other, and what they acknowledged."""

    path: Path
    writers: subprocess.Popen[str]
    log: Path
    random: Random
    acknowledged: list[Acknowledgement] = field(default_factory=list)
    kills: int = 0

    def kill_a_writer(self) -> None:
        self.kills += 1
        print(json.dumps([f"sqlite:///{self.path}", self.kills]), file=self.writers.stdin, flush=True)
        writer = int(self.writers.stdout.readline())
        # Some are killed while they open the database and recover what the one before has left.
        lines: list[str] = []
        self._read(lines, self.random.choice([0, 1, 8, 20, 50]))
        # Not to wait for anything: a moment at random.
        time.sleep(self.random.uniform(0, 0.02))
        if not _is_end(lines):
            os.kill(writer, signal.SIGKILL)
            self._read(lines, sys.maxsize)
        assert json.loads(lines.pop()) == {"exit": -signal.SIGKILL}, self.log.read_text()
        self.acknowledged += [Acknowledgement(*json.loads(line)) for line in lines if line.endswith("]\n")]

    def _read(self, lines: list[str], count: int) -> None:
        while len(lines) < count and not _is_end(lines):
            lines.append(self.writers.stdout.readline())
            assert lines[-1], self.log.read_text()

    def read_copy(self) -> Found:
        """What a reader finds who opens it now; the next writer shall recover the original itself."""
        folder = self.path.with_suffix(f".{self.kills}")
        folder.mkdir()
        for suffix in ("", "-wal"):
            if (source := Path(f"{self.path}{suffix}")).exists():
                shutil.copy(source, folder)
        found = read_whole(folder / self.path.name)
        shutil.rmtree(folder)
        return found


def _is_end(lines: list[str]) -> bool:
    return bool(lines) and lines[-1].startswith('{"exit"')


def kill_writers(folder: Path, way: str, *, databases: int, kills: int) -> None:
    """Kill writers of several databases side by side and look at the database after each kill; prints the figures."""

    def run(number: int) -> tuple[Victim, Found]:
        command = [sys.executable, str(WORKER), way]
        log = folder / f"{number}.log"
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with log.open("w") as errors, subprocess.Popen(command, stderr=errors, **pipes) as writers:
            victim = Victim(folder / f"{number}.db", writers, log, Random(f"{way}.{number}"))
            for _ in range(kills):
                victim.kill_a_writer()
                found = victim.read_copy()
                assert lost(found.trail, victim.acknowledged) == []
        return victim, found

    with ThreadPoolExecutor(2) as pool:
        ends = list(pool.map(run, range(databases)))
    for victim, _ in ends:
        with Storage(f"sqlite:///{victim.path}", entry_points=[]) as storage:
            storage.create_tables()
            assert storage.health().ok
            ModelAccessor(Counter, "counters", storage=storage).insert(Counter(value=1))
        assert list(folder.glob(f"{victim.path.name}-*")) == []
    acknowledged = sum(len(victim.acknowledged) for victim, _ in ends)
    rows = sum(len(found.trail) for _, found in ends)
    unheard = sum(
        len({row.actor for row in end.trail} - {ack.actor for ack in victim.acknowledged}) for victim, end in ends
    )
    assert acknowledged > databases * kills
    print(
        f"\n{way}: {databases * kills} kills, {acknowledged} operations acknowledged and all there, {rows} audit rows;"
        f" {unheard} operations were stored whole and not acknowledged yet"
    )


@pytest.mark.parametrize("way", ["direct", "unit_of_work"])
def test_a_killed_writer_loses_nothing_acknowledged_and_leaves_nothing_half(tmp_path, way):
    kill_writers(tmp_path, way, databases=2, kills=5)


@pytest.mark.soak
@pytest.mark.parametrize("way", ["direct", "unit_of_work"])
def test_hundreds_of_killed_writers_lose_nothing_acknowledged_and_leave_nothing_half(tmp_path, way):
    kill_writers(tmp_path, way, databases=8, kills=15)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, list[Acknowledgement]]:
    """A database that is whole, and what was acknowledged."""
    path = tmp_path / "written.db"
    with Storage(f"sqlite:///{path}", entry_points=[], config={"engine": {"durability": "off"}}) as storage:
        storage.create_tables()
        acknowledged = [share_counters(storage, 1)]
        client = Client(storage, 1, 1)
        acknowledged += [client.operate() for _ in range(20)]
    return path, acknowledged


def damage(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute(statement).rowcount == 1
        connection.commit()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM auditlog WHERE id = (SELECT max(id) FROM auditlog)",
        "DELETE FROM auditlog WHERE id = (SELECT min(id) FROM auditlog WHERE operation = 'create')",
        "DELETE FROM users WHERE id = (SELECT max(id) FROM users)",
        "INSERT INTO counter (value) VALUES (7)",
        "UPDATE counter SET value = value + 1 WHERE id = 1",
        "UPDATE auditlog SET reason = '1 of 2, 3 rows' WHERE id = 1",
        "UPDATE auditlog SET reason = '2 of 2, 1 rows' WHERE id = (SELECT max(id) FROM auditlog)",
        "UPDATE auditlog SET actor = 'refused' WHERE id = 4",
    ],
)
def test_these_tests_see_a_gap_between_rows_and_audit_trail(written, statement):
    path, _ = written
    read_whole(path)
    damage(path, statement)
    with pytest.raises(AssertionError):
        read_whole(path)


def test_these_tests_see_a_lost_operation(written):
    path, acknowledged = written
    assert lost(read_whole(path).trail, acknowledged) == []
    never_stored = acknowledged[-1]._replace(actor="nobody")
    assert lost(read_whole(path).trail, [*acknowledged, never_stored]) == [never_stored]
