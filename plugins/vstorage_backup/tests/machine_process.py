"""Another process on the machine's database; the tests start it as `python machine_process.py WHAT URL …`.

write    inserts pairs of a team and a member, one transaction each, in so many threads, and prints the key of each that
         was acknowledged
read     counts teams and members in one snapshot, in so many threads, and prints both counts
restore  restores a file over and over, and prints `restored` or `refused` after each
backup   takes backups over and over, and prints the file of each
measure  backs up to a file and restores it, once small and then whatever there is, and prints how much more memory
         the second time took, in kilobytes, and how many seconds backup and restore took

With `rollback` in front of WHAT it has no write-ahead log.
"""

import importlib.metadata
import logging
import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

from models import Member, Team
from rollback_journal import without_log
from sqlalchemy import func, select

from vstorage_backup import take_backup
from vstorage_core import ImportInProgress, ModelAccessor, Storage, StorageUnavailable

BACKUP = importlib.metadata.EntryPoint(name="backup", value="vstorage_backup.plugin", group="vstorage.plugins")


def say(*words):
    # In one piece, whichever thread says it.
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


def in_threads(count, function, *arguments):
    with ThreadPoolExecutor(int(count)) as pool:
        for done in [pool.submit(function, *arguments) for _ in range(int(count))]:
            done.result()


def write(storage, name, threads):
    in_threads(threads, write_on, storage, name)


def write_on(storage, name):
    teams, members = ModelAccessor(Team, "teams", storage=storage), ModelAccessor(Member, "members", storage=storage)
    number = 0
    while True:
        number += 1
        try:
            with storage.transaction():
                team = teams.insert(Team(name=f"{name} {number}"))
                members.insert(Member(name=f"{name} {number}", team_id=team.id))
        except StorageUnavailable:
            continue
        say(team.id, team.name)


def read(storage, threads):
    in_threads(threads, read_on, storage)


def read_on(storage):
    while True:
        with storage.snapshot() as connection:
            teams, members = (connection.scalar(select(func.count()).select_from(model)) for model in (Team, Member))
        say(teams, members)


def restore(storage, path):
    while True:
        try:
            storage.import_("restore", path)
            say("restored")
        except ImportInProgress:
            say("refused")


def backup(storage, _):
    while True:
        say(take_backup(storage))


def peak_kilobytes():
    # Unlike getrusage it does not count the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1])


def measure(storage, path, big_url):
    storage.create_tables()
    storage.export("backup", path)
    storage.import_("restore", path)
    before = peak_kilobytes()
    with Storage(big_url, entry_points=[BACKUP]) as big:
        times = [time.monotonic()]
        big.export("backup", path)
        times.append(time.monotonic())
        big.import_("restore", path)
        times.append(time.monotonic())
    say(peak_kilobytes() - before, times[1] - times[0], times[2] - times[1])


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    has_log = sys.argv[1] != "rollback"
    what, url, *arguments = sys.argv[1 if has_log else 2 :]
    with (
        nullcontext() if has_log else without_log(),
        Storage(url, entry_points=[BACKUP], config={"backup": {"keep": 3}}) as storage,
    ):
        storage.start()
        say("ready")
        globals()[what](storage, *arguments)
