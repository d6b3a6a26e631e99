"""Simulated power cuts: what SQLite wrote and synced is recorded, a random part of the unsynced is dropped."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from random import Random
from typing import NamedTuple

import pytest
from apsw_driver import sqlite_on
from disks import Event, RecordingDisk, power_cuts
from models import User
from recovery import Found, lost, read_whole
from workload import Acknowledgement, Client, share_counters

from vstorage_core import ConstraintViolation, InvalidInput, ModelAccessor, Storage

# Enough that the log is written back meanwhile: that is after its first 1,000 pages.
OPERATIONS = 160


class Recording(NamedTuple):
    """A run of the workload: what the disk was told, and after how many events each operation was acknowledged."""

    path: Path
    events: list[Event]
    acknowledged: list[tuple[int, Acknowledgement]]
    end: Found


def record(folder: Path, operations: int, *, way: str = "direct", **engine: object) -> Recording:
    path = folder / "recorded" / "machine.db"
    path.parent.mkdir()
    with RecordingDisk() as disk, sqlite_on(disk):
        acknowledged: list[tuple[int, Acknowledgement]] = []
        with Storage(f"sqlite:///{path}", entry_points=[], config={"engine": engine}) as storage:
            storage.allows_direct_rows = way == "direct"
            storage.create_tables()
            operation = share_counters(storage, 1)
            acknowledged.append((len(disk.events), operation))
            clients = [Client(storage, number, 1) for number in (1, 2, 3)]
            for number in range(operations):
                operation = clients[number % len(clients)].operate()
                acknowledged.append((len(disk.events), operation))
        events = list(disk.events)
    end = read_whole(path)
    assert lost(end.trail, [operation for _, operation in acknowledged]) == []
    # Without a checkpoint between the operations half of what can go wrong would not be there.
    first, last = acknowledged[0][0], acknowledged[-1][0]
    assert any(event.what == "write" and event.path == str(path) for event in events[first:last])
    return Recording(path, events, acknowledged, end)


class Outcome(NamedTuple):
    corrupt: list[str]
    lost: list[int]  # acknowledged operations, per cut
    not_a_beginning: list[int]

    def __str__(self) -> str:
        cuts = len(self.lost) + len(self.corrupt)
        losing = sum(map(bool, self.lost))
        return (
            f"{cuts} power cuts, {len(self.corrupt)} corrupt, {losing} lost acknowledged operations"
            f" ({sum(self.lost)} altogether, at most {max(self.lost, default=0)} in one)"
        )


def cut_power(recording: Recording, cuts: int, seed: int = 0) -> Outcome:
    random = Random(seed)
    positions = sorted(random.randrange(len(recording.events) + 1) for _ in range(cuts))
    outcome = Outcome([], [], [])
    folder = recording.path.parent.with_name("cut")
    folder.mkdir(exist_ok=True)
    for position, files in zip(positions, power_cuts(recording.events, positions, random), strict=True):
        for path in folder.iterdir():
            path.unlink()
        for path, content in files.items():
            (folder / Path(path).name).write_bytes(content)
        try:
            found = read_whole(folder / recording.path.name)
        except (AssertionError, sqlite3.DatabaseError) as error:
            outcome.corrupt.append(f"after event {position}: {error}")
            continue
        told = [operation for moment, operation in recording.acknowledged if moment <= position]
        outcome.lost.append(len(lost(found.trail, told)))
        if found.trail != recording.end.trail[: len(found.trail)]:
            outcome.not_a_beginning.append(position)
    return outcome


def nothing_is_lost(folder: Path, way: str, *, operations: int, cuts: int, **engine: object) -> None:
    outcome = cut_power(record(folder, operations, way=way, **engine), cuts)
    print(f"\nfull, {way}: {outcome}")
    assert outcome.corrupt == []
    assert not any(outcome.lost)
    assert outcome.not_a_beginning == []


def only_the_last_is_lost(folder: Path, way: str, *, operations: int, cuts: int) -> None:
    outcome = cut_power(record(folder, operations, way=way, durability="normal"), cuts)
    print(f"\nnormal, {way}: {outcome}")
    assert outcome.corrupt == []
    assert outcome.not_a_beginning == []


@pytest.mark.parametrize("way", ["direct", "unit_of_work"])
def test_a_power_cut_loses_nothing_acknowledged_with_the_defaults(tmp_path, way):
    nothing_is_lost(tmp_path, way, operations=OPERATIONS, cuts=200)


def test_a_power_cut_loses_nothing_acknowledged_while_the_log_is_cut_often(tmp_path):
    nothing_is_lost(tmp_path, "direct", operations=60, cuts=60, journal_size_limit_bytes=128 * 1024)


def test_a_power_cut_with_normal_durability_loses_the_last_operations_and_nothing_else(tmp_path):
    only_the_last_is_lost(tmp_path, "direct", operations=OPERATIONS, cuts=60)


def test_a_power_cut_without_syncs_breaks_the_database_so_these_tests_would_see_it(tmp_path):
    outcome = cut_power(record(tmp_path, OPERATIONS, durability="off"), 20)
    assert outcome.corrupt


@pytest.mark.soak
@pytest.mark.parametrize("limit", [64 * 1024, 512 * 1024, 64 * 1024 * 1024])
@pytest.mark.parametrize("way", ["direct", "unit_of_work"])
def test_thousands_of_power_cuts_lose_nothing_acknowledged(tmp_path, way, limit):
    nothing_is_lost(tmp_path, way, operations=300, cuts=400, journal_size_limit_bytes=limit)


@pytest.mark.soak
@pytest.mark.parametrize("way", ["direct", "unit_of_work"])
def test_hundreds_of_power_cuts_with_normal_durability_lose_the_last_operations_and_nothing_else(tmp_path, way):
    only_the_last_is_lost(tmp_path, way, operations=300, cuts=400)


def test_the_driver_of_these_tests_behaves_as_the_usual_one(tmp_path):
    url = f"sqlite:///{tmp_path / 'machine.db'}"
    with RecordingDisk() as disk, sqlite_on(disk), Storage(url, entry_points=[]) as storage:
        storage.create_tables()
        users = ModelAccessor(User, "users", storage=storage)
        user = users.insert(User(name="Ana", email="ana@example.com"))
        with pytest.raises(ConstraintViolation) as caught:
            users.insert(User(name="Ana", email="ana@example.com"))
        assert (caught.value.kind, caught.value.fields) == ("unique", ["email"])
        with storage.engine.begin() as connection, pytest.raises(InvalidInput):
            connection.exec_driver_sql("SELECT ?", (2**70,))
        assert users.get(user.id).name == "Ana"
        assert storage.health().ok
    assert {event.what for event in disk.events} >= {"write", "sync", "delete"}
