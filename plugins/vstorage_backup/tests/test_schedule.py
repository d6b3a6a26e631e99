"""Scheduled backups: taken when due, read back, few kept, and looked after by the health check."""

import hashlib
import json
import logging
import sqlite3
import threading
import time
from contextlib import closing
from datetime import datetime, timedelta, timezone

import pytest
from models import Counter, User

from vstorage_backup import BackupSettings, last_backup, take_backup
from vstorage_backup.schedule import Schedule, next_due
from vstorage_core import ConfigurationError, ModelAccessor, StorageUnavailable

NOW = datetime.now(timezone.utc)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "backups"


@pytest.fixture(params=["sqlite", "memory", "postgresql", "mariadb"])
def any_machine(request, make_database, open_machine, folder):
    return open_machine(make_database(request.param), folder=folder, keep=3)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_backup_is_written_to_the_folder_with_a_manifest(any_machine, folder):
    ModelAccessor(User, "users", storage=any_machine).insert(User(name="ana", email="ana@x"))
    path = take_backup(any_machine)
    assert names(folder) == [path.name, f"{path.name}.json"]
    manifest = json.loads((folder / f"{path.name}.json").read_text())
    assert manifest["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert manifest["size_bytes"] == path.stat().st_size
    assert manifest["rows"]["users"] == 1
    assert manifest["problem"] is None
    assert any_machine.import_("restore", path).restored


def test_only_the_youngest_backups_are_kept_and_other_files_are_left_alone(any_machine, folder):
    folder.mkdir()
    (folder / "mine.sqlite").write_text("not a backup of ours")
    paths = [take_backup(any_machine) for _ in range(5)]
    kept = [path.name for path in paths[-3:]]
    assert names(folder) == sorted(["mine.sqlite", *kept, *(f"{name}.json" for name in kept)])


def test_a_database_without_a_folder_for_backups_says_how_to_name_one(make_database, open_machine):
    with pytest.raises(ConfigurationError, match="VSTORAGE_BACKUP__FOLDER"):
        take_backup(open_machine(make_database("memory")))


def test_a_backup_that_would_fill_the_disk_is_not_taken(make_database, open_machine, folder):
    machine = open_machine(make_database("sqlite"), folder=folder, min_free_bytes=1 << 60)
    with pytest.raises(StorageUnavailable, match="make room"):
        take_backup(machine)
    assert names(folder) == []


def test_a_folder_that_cannot_be_written_to_is_reported(make_database, open_machine, tmp_path):
    (tmp_path / "file").write_text("")
    machine = open_machine(make_database("sqlite"), folder=tmp_path / "file")
    with pytest.raises(StorageUnavailable, match="the backup cannot be written: File exists"):
        take_backup(machine)


@pytest.mark.parametrize(
    ("statement", "sentence"),
    [
        ("INSERT INTO counter (value) VALUES ('many')", "counter.value holds text, not a whole number"),
        (
            "INSERT INTO auditlog (timestamp, component, record_id, operation, actor, after)"
            " VALUES ('2026-01-01 00:00:00.000000', 'users', '1', 'create', 'ana', '{')",
            "auditlog.after is not JSON",
        ),
    ],
)
def test_a_backup_that_a_restore_would_refuse_is_kept_and_reported(
    make_database, open_machine, folder, statement, sentence
):
    # What the original stored without looking at it.
    machine = open_machine(make_database("sqlite"), folder=folder, every_seconds=3600)
    with machine.engine.begin() as connection:
        connection.exec_driver_sql(statement)
    take_backup(machine)
    answer = machine.health().checks["backup"]
    assert not answer["ok"]
    assert sentence in answer["error"]


def test_a_backup_is_due_when_the_last_one_is_old_enough(make_database, open_machine, folder):
    machine = open_machine(make_database("sqlite"), folder=folder, every_seconds=3600)
    schedule = Schedule(machine)
    now = datetime.now(timezone.utc)
    assert schedule.seconds_until_due(now) == 0
    assert schedule.take_if_due(now)
    taken_at = last_backup(machine).taken_at
    assert schedule.seconds_until_due(taken_at + timedelta(seconds=600)) == 3000
    assert not schedule.take_if_due(taken_at + timedelta(seconds=3599))
    assert schedule.take_if_due(taken_at + timedelta(seconds=3600))
    assert len(list(folder.glob("*.sqlite"))) == 2


@pytest.fixture
def central_europe(monkeypatch):
    """The machine's clock goes forward on the last Sunday of March at 2:00, and back in October at 3:00."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("cron", "after", "due"),
    [
        ("30 2 * * *", "2026-11-24 02:29:59+01:00", "2026-11-24 02:30:00+01:00"),
        ("30 2 * * *", "2026-11-24 02:30:00+01:00", "2026-11-25 02:30:00+01:00"),
        ("30 2 * * *", "2026-07-24 12:00:00+00:00", "2026-07-25 02:30:00+02:00"),
        ("0 6,14,22 * * mon-fri", "2026-11-27 22:00:00+01:00", "2026-11-30 06:00:00+01:00"),
        ("0 0 29 2 *", "2026-11-24 00:00:00+01:00", "2028-02-29 00:00:00+01:00"),
        # Half past two does not exist that night.
        ("30 2 * * *", "2026-03-28 02:30:00+01:00", "2026-03-29 03:30:00+02:00"),
        ("30 2 * * *", "2026-03-29 03:30:00+02:00", "2026-03-30 02:30:00+02:00"),
        # It comes twice that night.
        ("30 2 * * *", "2026-10-24 02:30:00+02:00", "2026-10-25 02:30:00+02:00"),
        ("30 2 * * *", "2026-10-25 02:30:00+02:00", "2026-10-26 02:30:00+01:00"),
        # A backup that somebody took by hand in the second of the two hours.
        ("30 2 * * *", "2026-10-25 02:10:00+01:00", "2026-10-26 02:30:00+01:00"),
        ("*/15 * * * *", "2026-10-25 02:10:00+01:00", "2026-10-25 03:00:00+01:00"),
    ],
)
@pytest.mark.usefixtures("central_europe")
def test_cron_means_the_clock_on_the_wall_also_when_it_is_put_forward_or_back(cron, after, due):
    assert next_due(BackupSettings(cron=cron), datetime.fromisoformat(after)) == datetime.fromisoformat(due)


@pytest.mark.usefixtures("central_europe")
def test_a_machine_that_was_off_at_the_time_of_its_backup_takes_it_when_it_is_on_again(
    make_database, open_machine, folder
):
    machine = open_machine(make_database("sqlite"), folder=folder, cron="30 2 * * *")
    schedule = Schedule(machine)
    # There is none at all yet.
    assert schedule.take_if_due(datetime.now(timezone.utc))
    taken_at = last_backup(machine).taken_at.astimezone()
    night = (taken_at + timedelta(days=1)).replace(hour=2, minute=30, second=0, microsecond=0)
    due = night - timedelta(days=1) if (taken_at.hour, taken_at.minute) < (2, 30) else night
    assert schedule.seconds_until_due(due - timedelta(seconds=90)) == 90
    assert not schedule.take_if_due(due - timedelta(seconds=1))
    assert schedule.seconds_until_due(due + timedelta(days=9)) == 0
    assert schedule.take_if_due(due + timedelta(days=9))


@pytest.mark.usefixtures("central_europe")
def test_health_fails_when_two_times_of_the_clock_passed_without_a_backup(make_database, open_machine, folder):
    machine = open_machine(make_database("sqlite"), folder=folder, cron="0 * * * *")
    path = take_backup(machine)
    assert machine.health().checks["backup"]["ok"]
    manifest = path.with_name(f"{path.name}.json")
    old = (datetime.now(timezone.utc) - timedelta(hours=3)).isoformat()
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "taken_at": old}))
    answer = machine.health().checks["backup"]
    assert not answer["ok"]
    assert answer["error"].startswith("the last verified backup is 3:00:00 old, more than ")


def test_a_clock_that_was_wrong_puts_backups_off_by_one_interval_at_most(make_database, open_machine, folder):
    machine = open_machine(make_database("sqlite"), folder=folder, every_seconds=3600)
    schedule = Schedule(machine)
    take_backup(machine)
    assert schedule.seconds_until_due(datetime(1970, 1, 1, tzinfo=timezone.utc)) == 3600


def test_of_several_processes_one_takes_the_backup(make_database, open_machine, folder):
    url = make_database("sqlite")
    machines = [open_machine(url, folder=folder, every_seconds=3600) for _ in range(4)]
    barrier = threading.Barrier(4)
    took = []

    def take(machine):
        barrier.wait()
        took.append(Schedule(machine).take_if_due(datetime.now(timezone.utc)))

    threads = [threading.Thread(target=take, args=[machine]) for machine in machines]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(took) == [False, False, False, True]
    assert len(list(folder.glob("*.sqlite"))) == 1


class Told(logging.Handler):
    """Lets a test wait until a message is logged."""

    def __init__(self, beginning):
        super().__init__()
        self.beginning = beginning
        self.heard = threading.Event()

    def emit(self, record):
        if record.getMessage().startswith(self.beginning):
            self.heard.set()


@pytest.fixture
def told():
    """Waits for a message of the backup plugin."""
    logger = logging.getLogger("vstorage.backup")
    level = logger.level
    logger.setLevel(logging.INFO)
    handlers = []

    def listen(beginning):
        handlers.append(Told(beginning))
        logger.addHandler(handlers[-1])
        return handlers[-1].heard

    yield listen
    for handler in handlers:
        logger.removeHandler(handler)
    logger.setLevel(level)


def backup_threads():
    return [thread for thread in threading.enumerate() if thread.name == "vstorage-backup"]


def test_a_started_storage_takes_backups_by_itself_until_it_closes(make_database, open_machine, folder, told):
    machine = open_machine(make_database("sqlite"), folder=folder, every_seconds=0.05, max_age_seconds=3600)
    taken = told("backup ")
    machine.start()
    assert taken.wait(20)
    answer = machine.health().checks["backup"]
    assert answer["ok"]
    assert answer["last_backup"] in names(folder)
    machine.close()
    assert backup_threads() == []


def test_closing_does_not_wait_for_the_next_backup(make_database, open_machine, folder):
    machine = open_machine(make_database("sqlite"), folder=folder, every_seconds=86400)
    machine.start()
    assert len(backup_threads()) == 1
    machine.close()
    assert backup_threads() == []


def test_a_failed_try_makes_the_machine_unhealthy_and_the_next_one_heals_it(
    make_database, open_machine, tmp_path, folder, told
):
    folder.write_text("in the way")
    machine = open_machine(make_database("sqlite"), folder=folder, every_seconds=0.05, max_age_seconds=3600)
    failed, taken = told("no backup was taken"), told("backup ")
    machine.start()
    assert failed.wait(20)
    answer = machine.health().checks["backup"]
    assert not answer["ok"]
    assert "the backup cannot be written" in answer["error"]
    folder.unlink()
    assert taken.wait(20)
    machine.close()
    assert machine.health().checks["backup"]["ok"]


def test_without_a_schedule_there_is_no_thread_and_no_check(machine):
    machine.start()
    assert backup_threads() == []
    assert "backup" not in machine.health().checks


def test_health_tells_the_age_of_the_last_backup_and_fails_when_it_is_too_old(make_database, open_machine, folder):
    url = make_database("sqlite")
    take_backup(open_machine(url, folder=folder))
    healthy = open_machine(url, folder=folder, every_seconds=86400).health().checks["backup"]
    assert healthy["ok"]
    assert 0 <= healthy["age_seconds"] < 60
    strict = open_machine(url, folder=folder, every_seconds=86400, max_age_seconds=0.000001).health().checks["backup"]
    assert not strict["ok"]
    assert strict["error"].startswith("the last verified backup is 0:00:00 old, more than 1e-06 s")


def test_a_backup_that_was_cut_off_since_does_not_count(make_database, open_machine, folder):
    machine = open_machine(make_database("sqlite"), folder=folder)
    first = take_backup(machine)
    second = take_backup(machine)
    second.write_bytes(second.read_bytes()[:100])
    assert last_backup(machine).file == first.name


def test_a_new_machine_is_healthy_until_its_first_backup_is_overdue(make_database, open_machine, folder):
    machine = open_machine(make_database("sqlite"), folder=folder, every_seconds=86400)
    machine.start()
    assert machine.health().checks["backup"] == {"ok": True, "last_backup": None}
    machine.close()


def test_a_schedule_without_a_folder_stops_the_start(make_database, open_machine):
    machine = open_machine(make_database("memory"), every_seconds=3600)
    with pytest.raises(ConfigurationError, match=r"backup\.folder"):
        machine.start()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"every_seconds": 0}, "every_seconds"),
        ({"every_seconds": float("inf")}, "every_seconds"),
        ({"keep": 0}, "keep"),
        ({"folders": "x"}, "folders"),
        ({"cron": "30 2 * * *", "every_seconds": 60}, "two schedules; set one of them"),
        ({"cron": ""}, "not minute, hour, day of the month, month and day of the week"),
        ({"cron": "at night"}, "'30 2 \\* \\* \\*' for half past two each night"),
        ({"cron": "0 30 2 * * *"}, "there are not five of them"),
        ({"cron": "61 2 * * *"}, "Bad minute"),
        ({"cron": "0 2 30 2 *"}, "Bad day-of-month"),
        ({"cron": "0 2 */20 * 1L"}, "no year has"),
    ],
)
def test_a_wrong_setting_stops_the_start(make_database, open_machine, settings, sentence):
    machine = open_machine(make_database("sqlite"), **settings)
    with pytest.raises(ConfigurationError, match=sentence):
        machine.start()


def test_leftovers_of_a_killed_process_go_at_the_start_and_files_in_use_stay(machine, tmp_path):
    database = tmp_path / machine.engine.url.database
    for name in (f".{database.name}.0123.tmp", f".{database.name}.restore.tmp"):
        (tmp_path / name).write_text("left")
    (tmp_path / ".other.db.0123.tmp").write_text("of another database")
    machine.start()
    assert [path.name for path in tmp_path.glob(".*")] == [".other.db.0123.tmp"]


def test_the_backup_of_an_empty_counter_table_counts_it(machine):
    ModelAccessor(Counter, "counters", storage=machine)
    path = take_backup(machine)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM counter").fetchone() == (0,)
    assert last_backup(machine).rows["counter"] == 0


def test_leftovers_that_cannot_be_removed_do_not_stop_the_start(machine, tmp_path):
    database = tmp_path / machine.engine.url.database
    leftover = tmp_path / f".{database.name}.0123.tmp"
    leftover.symlink_to("nowhere")
    machine.start()
    assert leftover.is_symlink()
    assert not (tmp_path / "nowhere").exists()
