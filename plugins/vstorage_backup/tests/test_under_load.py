"""Backups and restores while other threads and processes write and read, and when they are killed."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

import pytest
from models import Member, Team
from rollback_journal import without_log
from sqlalchemy import func, select

from vstorage_core import ModelAccessor, StorageBusy

SCRIPT = Path(__file__).with_name("machine_process.py")
MODELS = Path(__file__).parents[3] / "tests"


@contextmanager
def processes(*calls):
    """Starts machine_process.py once per tuple of arguments; gives them once all are ready, kills them at the end."""
    environment = {**os.environ, "PYTHONPATH": str(MODELS)}
    with ExitStack() as stack:
        started = []
        for arguments in calls:
            command = [sys.executable, str(SCRIPT), *map(str, arguments)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
            started.append(stack.enter_context(process))
            stack.callback(process.kill)
        for process in started:
            assert process.stdout.readline() == "ready\n"
        yield started


def lines_of(started):
    """Kills the process and gives what it has said since."""
    started.kill()
    *lines, _unfinished = started.stdout.read().split("\n")
    return lines


def pairs(storage, name, count):
    teams, members = ModelAccessor(Team, "teams", storage=storage), ModelAccessor(Member, "members", storage=storage)
    with storage.transaction():
        created = teams.insert_many([Team(name=f"{name} {number}") for number in range(count)])
        members.insert_many([Member(name=team.name, team_id=team.id) for team in created])


def assert_whole(storage):
    if storage.engine.dialect.name != "sqlite":
        return
    with storage.snapshot() as connection:
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []


def insist(call):
    """Does it again while others hold the database: whoever is told so has changed nothing."""
    while True:
        with suppress(StorageBusy):
            return call()


@pytest.fixture(params=["wal", "rollback"])
def journal(request):
    """How SQLite keeps transactions; the test runs once with a write-ahead log and once where there can be none."""
    with without_log() if request.param == "rollback" else nullcontext():
        yield request.param


def journal_mode(machine):
    with machine.snapshot() as connection:
        return connection.exec_driver_sql("PRAGMA journal_mode").scalar()


def restore_under_load(machine, backup, times, writers=2, readers=1, journal="wal"):
    """Restores while so many threads here and, on SQLite, as many in other processes write and read.

    Gives the number of acknowledged writes.
    """
    url = machine.engine.url.render_as_string(hide_password=False)
    pairs(machine, "backup", 50)
    machine.export("backup", backup)
    stop = threading.Event()
    acknowledged, seen, errors = [], [], []
    teams, members = ModelAccessor(Team, "teams", storage=machine), ModelAccessor(Member, "members", storage=machine)

    def insert_pair(name):
        with machine.transaction():
            team = teams.insert(Team(name=name))
            members.insert(Member(name=name, team_id=team.id))
        return team

    def write(name):
        try:
            number = 0
            while not stop.is_set():
                number += 1
                team = insist(partial(insert_pair, f"{name} {number}"))
                acknowledged.append((team.id, team.name))
        except Exception as error:
            errors.append(error)

    def read():
        try:
            while not stop.is_set():
                with machine.snapshot() as connection:
                    seen.append(
                        tuple(connection.scalar(select(func.count()).select_from(model)) for model in (Team, Member))
                    )
        except Exception as error:
            errors.append(error)

    calls = [("write", url, f"process{number}", writers // 2) for number in range(2)] + [("read", url, readers)]
    if journal == "rollback":
        calls = [("rollback", *call) for call in calls]
    if machine.engine.dialect.name != "sqlite":
        calls = []
    with processes(*calls) as others:
        threads = [threading.Thread(target=write, args=[f"thread{number}"]) for number in range(writers)]
        threads += [threading.Thread(target=read) for _ in range(readers)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(times):
                assert insist(partial(machine.import_, "restore", backup)).restored
                assert_whole(machine)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        for call, other in zip(calls, others, strict=True):
            for line in lines_of(other):
                key, told = line.split(" ", 1)
                if "write" in call:
                    acknowledged.append((int(key), told))
                else:
                    seen.append((int(key), int(told)))
    # The rollback journal of a killed writer stands there until the next one.
    pairs(machine, "afterwards", 1)
    assert not errors
    # Nobody ever saw half of a transaction or half of a restore.
    assert all(team_count == member_count >= 50 for team_count, member_count in seen)
    with machine.snapshot() as connection:
        trail = connection.exec_driver_sql(
            "SELECT record_id, component, operation FROM auditlog WHERE component IN ('teams', 'db') ORDER BY id"
        ).all()
        stored = dict(connection.exec_driver_sql("SELECT id, name FROM team").all())
    # The trail has every acknowledged write, in the order of the commits; what came after the last restore is there.
    assert {int(key) for key, component, _ in trail if component == "teams"} >= {key for key, _ in acknowledged}
    last = max(position for position, row in enumerate(trail) if row[1] == "db")
    after = {int(key) for key, _, _ in trail[last + 1 :]}
    assert set(stored) == {key for key in stored if key <= 50} | after
    assert all(stored[key] == name for key, name in acknowledged if key in after)
    return len(acknowledged)


def test_restores_under_writers_and_readers_in_several_processes_lose_nothing(
    journal, machine, tmp_path, temporary_files
):
    # FAULTS 1, 2, 3.
    # Without a log a restore may wait a second for its turn.
    times = 2 if journal == "rollback" else 4
    assert restore_under_load(machine, tmp_path / "backup.sqlite", times, journal=journal) > 0
    assert journal_mode(machine) == ("delete" if journal == "rollback" else "wal")
    assert temporary_files() == []


@pytest.mark.parametrize("engine", ["memory", "postgresql", "mariadb"])
def test_restores_under_writers_and_readers_on_other_databases_lose_nothing(
    engine, make_database, open_machine, tmp_path
):
    machine = open_machine(make_database(engine))
    assert restore_under_load(machine, tmp_path / "backup.sqlite", 5) > 0


@pytest.mark.soak
def test_a_hundred_restores_under_8_writers_and_8_readers_lose_nothing(journal, machine, tmp_path, temporary_files):
    started = time.monotonic()
    writes = restore_under_load(machine, tmp_path / "backup.sqlite", 100, writers=4, readers=4, journal=journal)
    assert journal_mode(machine) == ("delete" if journal == "rollback" else "wal")
    assert temporary_files() == []
    print(f"{journal}: 100 restores, {writes} acknowledged writes, {time.monotonic() - started:.1f} s")


def kill_while_restoring(url, open_machine, tmp_path, kills, seed):
    """Kills a process that restores at random moments; the database is wholly old or wholly new each time."""
    rng = random.Random(seed)
    machine = open_machine(url)
    backups = []
    for name, count in (("small", 200), ("large", 3000)):
        pairs(machine, name, count)
        path = tmp_path / f"{name}.sqlite"
        machine.export("backup", path)
        backups.append(path)
    wholes = {200, 3200}
    outcomes = []
    machine.close()
    for _ in range(kills):
        with processes(("restore", url, backups[rng.randrange(2)])) as [started]:
            # From the first moments of a restore to the middle of a later one.
            for _ in range(rng.randrange(2)):
                started.stdout.readline()
            time.sleep(rng.random() * 0.4)
            started.send_signal(signal.SIGKILL)
            started.wait()
        machine.start()
        assert_whole(machine)
        with machine.snapshot() as connection:
            teams, members = (connection.scalar(select(func.count()).select_from(model)) for model in (Team, Member))
        assert teams == members
        assert teams in wholes
        outcomes.append(teams)
        machine.close()
        leftovers = [path.name for path in tmp_path.rglob("*.tmp")]
        assert leftovers == []
    return outcomes


def test_a_killed_restore_leaves_the_old_or_the_new_rows_whole(make_database, open_machine, tmp_path):
    # FAULTS 4.
    outcomes = kill_while_restoring(make_database("sqlite"), open_machine, tmp_path, kills=4, seed=1)
    assert len(outcomes) == 4


@pytest.mark.soak
def test_many_killed_restores_leave_the_old_or_the_new_rows_whole(make_database, open_machine, tmp_path):
    outcomes = kill_while_restoring(make_database("sqlite"), open_machine, tmp_path, kills=200, seed=2)
    print("200 kills:", {count: outcomes.count(count) for count in set(outcomes)})


def test_a_killed_backup_leaves_whole_backups_only(make_database, open_machine, tmp_path):
    url = make_database("sqlite")
    machine = open_machine(url)
    pairs(machine, "a", 2000)
    for _ in range(3):
        with processes(("backup", url, "-")) as [started]:
            started.stdout.readline()
            started.send_signal(signal.SIGKILL)
            started.wait()
    folder = next(tmp_path.glob("*-backups"))
    backups = sorted(folder.glob("*.sqlite"))
    assert backups
    for path in backups:
        assert path.with_name(f"{path.name}.json").is_file()
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert connection.execute("SELECT count(*) FROM team").fetchone() == (2000,)
    machine.start()
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_restore_in_another_process_is_refused_while_ours_runs(make_database, open_machine, tmp_path, blocked):
    url = make_database("sqlite")
    machine = open_machine(url)
    backup = tmp_path / "backup.sqlite"
    machine.export("backup", backup)
    stream = blocked(backup.read_bytes())
    ours = threading.Thread(target=machine.import_, args=["restore", stream])
    ours.start()
    assert stream.reached.wait(10)
    with processes(("restore", url, backup)) as [other]:
        assert other.stdout.readline() == "refused\n"
        stream.go_on.set()
        ours.join()
        assert "restored\n" in iter(other.stdout.readline, "")
