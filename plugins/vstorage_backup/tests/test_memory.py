"""Backups and restores take the same memory however large the database is."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("machine_process.py")
MODELS = Path(__file__).parents[3] / "tests"

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def fill(machine, rows):
    """Makes a database of about 400 bytes per row: half of it devices, half of it their audit trail."""
    numbers = f"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})"
    with machine.engine.begin() as connection:
        connection.exec_driver_sql(f"INSERT INTO device {numbers} SELECT printf('%08d', i), hex(randomblob(50)) FROM n")
        connection.exec_driver_sql(
            f"INSERT INTO auditlog (timestamp, component, record_id, operation, actor, after) {numbers}"
            " SELECT strftime('%Y-%m-%d %H:%M:%f000', 1700000000 + i / 100.0, 'unixepoch'), 'devices',"
            " printf('%08d', i), 'create', 'ana', json_object('serial', i, 'label', hex(randomblob(20))) FROM n"
        )


def measure(machine, make_database, tmp_path):
    big_url = machine.engine.url.render_as_string(hide_password=False)
    machine.close()
    done = subprocess.run(
        [sys.executable, SCRIPT, "measure", make_database("sqlite"), tmp_path / "file.sqlite", big_url],
        env={**os.environ, "PYTHONPATH": str(MODELS)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    growth, backup_seconds, restore_seconds = map(float, done.stdout.split("\n")[1].split())
    size = (tmp_path / "file.sqlite").stat().st_size
    print(
        f"{size / 1e6:.0f} MB: backup {backup_seconds:.1f} s, restore {restore_seconds:.1f} s,"
        f" {growth / 1000:.1f} MB more memory than for an empty database"
    )
    return size, growth * 1024


@linux_only
def test_a_database_of_60_mb_takes_no_more_memory_than_an_empty_one(machine, make_database, tmp_path):
    # FAULTS 33: the original read the whole file into memory.
    fill(machine, 150_000)
    size, growth = measure(machine, make_database, tmp_path)
    assert size > 60_000_000
    assert growth < 16_000_000


@linux_only
@pytest.mark.soak
def test_a_database_of_200_mb_and_more_takes_no_more_memory_than_an_empty_one(machine, make_database, tmp_path):
    fill(machine, 1_000_000)
    size, growth = measure(machine, make_database, tmp_path)
    assert size > 200_000_000
    assert growth < 32_000_000
