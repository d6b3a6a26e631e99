"""A disk that fills up in the middle: a clear error, the database whole, nothing half written left behind."""

import random
import shutil
import subprocess

import pytest
from models import Device
from sqlalchemy import text

from vstorage_backup import take_backup
from vstorage_core import ModelAccessor, StorageUnavailable

SIZE = 16_000_000


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 MB; only root can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", folder], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("this user cannot mount a small file system")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.soak
@pytest.mark.parametrize("what", ["backup", "scheduled backup", "restore"])
@pytest.mark.parametrize("seed", range(10))
def test_a_full_disk_stops_it_cleanly(what, seed, small_disk, open_machine, tmp_path, content, trail):
    # No reserve: the disk really fills.
    machine = open_machine(f"sqlite:///{small_disk / 'machine.db'}", min_free_bytes=0)
    devices = ModelAccessor(Device, "devices", storage=machine, audited=False)
    devices.insert_many([Device(serial=f"{number:06}", label="x" * 200) for number in range(8000)])
    machine.export("backup", tmp_path / "backup.sqlite")
    machine.close()
    leave = random.Random(seed).randrange(6_000_000)
    (small_disk / "filler").write_bytes(b"x" * (shutil.disk_usage(small_disk).free - leave))
    before = content(machine), trail(machine)
    try:
        if what == "backup":
            machine.export("backup", tmp_path / "again.sqlite")
        elif what == "scheduled backup":
            take_backup(machine)
        else:
            machine.import_("restore", tmp_path / "backup.sqlite")
        outcome = "done"
    except StorageUnavailable as error:
        outcome = str(error)
        assert (content(machine), trail(machine)) == before
    print(f"{what} with {leave:,} bytes free: {outcome}")
    with machine.snapshot() as connection:
        assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
    assert list(small_disk.rglob("*.tmp")) == []
