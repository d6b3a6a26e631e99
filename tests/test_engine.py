"""How databases are opened, and what a database that fails looks like to the caller."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy
from models import Counter, Sample
from sqlalchemy import text
from trail import trail

from vstorage_core import (
    ConfigurationError,
    ModelAccessor,
    Storage,
    StorageUnavailable,
    TransactionError,
)

DEADLINE = 20


def accessor_of(storage: Storage, model: type[Any] = Counter) -> ModelAccessor[Any]:
    return ModelAccessor(model, model.__name__.lower() + "s", storage=storage)


def path_of(storage: Storage) -> Path:
    return Path(storage.url.removeprefix("sqlite:///"))


# SQLite: how a file is opened


PRAGMAS = {
    "journal_mode": "wal",
    "synchronous": 2,
    "foreign_keys": 1,
    "trusted_schema": 0,
    "recursive_triggers": 1,
    "busy_timeout": 10_000,
    "journal_size_limit": 64 * 1024 * 1024,
    "query_only": 0,
}


def pragmas(connection: sqlalchemy.Connection) -> dict[str, Any]:
    return {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in PRAGMAS}


def test_writers_and_readers_are_opened_for_a_machine_that_loses_power(sqlite_storage):
    with sqlite_storage.engine.connect() as connection:
        assert pragmas(connection) == PRAGMAS
    with sqlite_storage.use_session() as session:
        assert pragmas(session.connection()) == {**PRAGMAS, "query_only": 1}
    with sqlite_storage.snapshot() as connection:
        assert pragmas(connection) == {**PRAGMAS, "query_only": 1}


@pytest.mark.parametrize(("durability", "synchronous"), [("full", 2), ("normal", 1), ("off", 0)])
def test_durability_decides_when_the_disk_is_awaited(make_database, open_storage, durability, synchronous):
    storage = open_storage(make_database("sqlite"), config={"engine": {"durability": durability}})
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == synchronous


def test_reads_cannot_write_by_accident(sqlite_storage):
    with (
        pytest.raises(StorageUnavailable, match="write inside `with transaction"),
        sqlite_storage.use_session() as session,
    ):
        session.execute(text("INSERT INTO counter (value) VALUES (1)"))
    with sqlite_storage.transaction() as session:
        session.execute(text("INSERT INTO counter (value) VALUES (1)"))
    assert accessor_of(sqlite_storage).count() == 1


def test_readers_go_on_while_somebody_writes(sqlite_storage):
    counters = accessor_of(sqlite_storage)
    counters.insert(Counter(value=1))
    with sqlite_storage.transaction(), ThreadPoolExecutor(1) as pool:
        counters.update(1, value=2)
        assert pool.submit(counters.get, 1).result(DEADLINE).value == 1


def test_the_write_ahead_log_stays_bounded_while_readers_come_and_go(make_database, open_storage):
    limit = 200_000
    storage = open_storage(make_database("sqlite"), config={"engine": {"journal_size_limit_bytes": limit}})
    samples = accessor_of(storage, Sample)
    log = Path(f"{path_of(storage)}-wal")
    stop, largest = threading.Event(), 0

    def read() -> None:
        while not stop.is_set():
            samples.count()

    with ThreadPoolExecutor(2) as pool:
        readers = [pool.submit(read) for _ in range(2)]
        for _ in range(40):
            samples.insert(Sample(raw=bytes(50_000)))
            largest = max(largest, log.stat().st_size)
        stop.set()
        for reader in readers:
            reader.result(DEADLINE)
    assert largest < 3 * limit


def test_a_relative_path_stays_the_same_file_when_the_process_changes_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Storage("sqlite:///./machine.db", entry_points=[]) as storage:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        storage.create_tables()
    assert (tmp_path / "machine.db").exists()
    assert list(elsewhere.iterdir()) == []


@pytest.mark.parametrize("name", ["with space.db", "übung.db", "a'b.db", "no-suffix"])
def test_a_file_may_have_any_name(tmp_path, name):
    with Storage(f"sqlite:///{tmp_path / name}", entry_points=[]) as storage:
        storage.create_tables()
        accessor_of(storage).insert(Counter())
    assert (tmp_path / name).stat().st_size > 0


def test_a_storage_in_memory_is_one_database_of_its_own(make_database, open_storage):
    first, second = (accessor_of(open_storage(make_database("memory"))) for _ in range(2))
    first.insert(Counter())
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda value: first.insert(Counter(value=value)), range(20)))
    assert (first.count(), second.count()) == (21, 0)


def test_who_has_a_transaction_of_the_engine_open_in_memory_keeps_it(open_storage):
    storage = open_storage("sqlite://")
    counters = accessor_of(storage)
    counters.insert(Counter(value=1))
    with storage.engine.begin() as connection:
        connection.execute(text("UPDATE counter SET value = 2"))
        assert counters.get(1).value == 2
        with pytest.raises(TransactionError, match=r"a transaction of storage\.engine is open"):
            counters.insert(Counter(value=3))
        assert counters.count() == 1
    assert [counter.value for counter in counters.all()] == [2]
    counters.insert(Counter(value=3))
    assert counters.count() == 2


def test_tables_that_exist_are_left_as_they_are(make_database):
    ours = "CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER, note TEXT)"
    with Storage(make_database("sqlite"), entry_points=[]) as storage:
        with storage.engine.begin() as connection:
            connection.exec_driver_sql(ours)
        storage.create_tables()
        with storage.engine.connect() as connection:
            stored = connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE name = 'counter'").scalar_one()
    assert stored == ours


def test_a_key_is_never_given_twice(storage):
    counters = accessor_of(storage)
    first = counters.insert(Counter()).id
    counters.delete(first)
    second = counters.insert(Counter()).id
    counters.delete_many([second])
    third = counters.insert_many([Counter(), Counter()])[0].id
    assert first < second < third


def test_a_key_is_never_given_twice_by_a_file_that_was_closed(make_database):
    url = make_database("sqlite")
    with Storage(url, entry_points=[]) as storage:
        storage.create_tables()
        accessor_of(storage).delete(accessor_of(storage).insert(Counter()).id)
    with Storage(url, entry_points=[]) as storage:
        assert accessor_of(storage).insert(Counter()).id == 2


# Databases that fail


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of three megabytes."""
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


needs_root = pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root may mount a small file system"
)


@needs_root
def test_a_full_disk_refuses_the_write_and_leaves_the_database_whole(tmp_path):
    with small_disk(tmp_path / "disk") as disk, Storage(f"sqlite:///{disk}/machine.db", entry_points=[]) as storage:
        storage.create_tables()
        samples = accessor_of(storage, Sample)
        filler = disk / "filler"
        filler.write_bytes(bytes(1_500_000))
        acknowledged = 0
        with pytest.raises(StorageUnavailable, match="the disk is full") as caught:
            for _ in range(100):
                samples.insert(Sample(raw=os.urandom(30_000)))
                acknowledged += 1
        assert caught.value.retry_after_seconds > 0
        assert acknowledged > 0
        for several in (1, 3):
            with pytest.raises(StorageUnavailable), storage.transaction():
                samples.insert_many([Sample(raw=os.urandom(300_000)) for _ in range(several)])
        assert samples.count() == len(trail(storage)) == acknowledged
        assert "the disk is full" in storage.health().checks["database"]["error"]

        filler.unlink()
        assert storage.health().ok
        samples.insert(Sample(raw=b"again"))
        assert samples.count() == acknowledged + 1
        with storage.snapshot() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar_one() == "ok"


@needs_root
def test_a_disk_that_became_read_only_refuses_writes(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        with Storage(f"sqlite:///{disk}/machine.db", entry_points=[]) as storage:
            storage.create_tables()
            accessor_of(storage).insert(Counter())
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with Storage(f"sqlite:///{disk}/machine.db", entry_points=[]) as storage:
            with pytest.raises(StorageUnavailable):
                accessor_of(storage).insert(Counter())
            assert storage.health().checks["database"]["error"] == "the database's file or folder cannot be written"
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        with Storage(f"sqlite:///{disk}/machine.db", entry_points=[]) as storage:
            assert accessor_of(storage).insert(Counter()).id == 2


def test_a_file_that_is_no_database_is_told(tmp_path):
    (tmp_path / "machine.db").write_bytes(b"not a database, but long enough to have a header" * 100)
    with Storage(f"sqlite:///{tmp_path}/machine.db", entry_points=[]) as storage:
        with pytest.raises(StorageUnavailable, match="the file is not an SQLite database"):
            accessor_of(storage).count()
        health = storage.health()
    assert not health.ok
    assert health.checks["database"]["error"] == "the file is not an SQLite database"


def test_a_file_that_is_gone_is_told_by_reads_of_rows_too(tmp_path):
    (tmp_path / "disk").mkdir()
    with Storage(f"sqlite:///{tmp_path / 'disk' / 'machine.db'}", entry_points=[]) as storage:
        storage.create_tables()
        # All connections that are open are in use.
        with storage.engine.connect(), storage.reading_connection():
            (tmp_path / "disk").rename(tmp_path / "elsewhere")
            for use in (lambda: accessor_of(storage).get(1), lambda: accessor_of(storage).insert(Counter())):
                with pytest.raises(StorageUnavailable, match="the database file cannot be opened"):
                    use()


def test_a_folder_in_place_of_the_file_is_told(tmp_path):
    with Storage(f"sqlite:///{tmp_path}", entry_points=[]) as storage, pytest.raises(StorageUnavailable):
        accessor_of(storage).count()


def test_a_missing_table_is_told_with_the_way_out(make_database):
    with (
        Storage(make_database("sqlite"), entry_points=[]) as storage,
        pytest.raises(ConfigurationError, match=r"no such table: counter; create it with bootstrap\(.*create_tables"),
    ):
        accessor_of(storage).count()


# URLs


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("machine.db", "'machine.db' is not a database URL; write e.g. sqlite:///"),
        ("sqlite:/machine.db", "is not a database URL"),
        ("oracle://x", "'oracle' is not supported; use sqlite, postgresql, mysql or mariadb"),
        ("sqlite:////no/such/folder/machine.db", "there is no folder /no/such/folder"),
    ],
)
def test_a_url_that_cannot_work_is_refused_at_once(url, message):
    with pytest.raises(ConfigurationError, match=message):
        Storage(url, entry_points=[])
