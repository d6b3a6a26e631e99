"""A disk that fills up in the middle: a clear error, the database whole, nothing half written left behind."""

import random
import shutil

import pytest
from models import Device
from sqlalchemy import text

from vstorage_backup import take_backup
from vstorage_core import ModelAccessor, StorageUnavailable

TOO_LITTLE = 1_000_000
LEFT = [
    TOO_LITTLE,
    *(pytest.param(left, marks=pytest.mark.soak) for left in random.Random(0).sample(range(6_000_000), 9)),
]


@pytest.mark.parametrize("what", ["backup", "backup to the disk", "scheduled backup", "restore"])
@pytest.mark.parametrize("left", LEFT)
def test_a_full_disk_stops_it_cleanly_and_with_room_it_works(
    what, left, small_disk, open_machine, tmp_path, content, trail
):
    # No reserve: the disk really fills.
    machine = open_machine(f"sqlite:///{small_disk / 'machine.db'}", min_free_bytes=0)
    devices = ModelAccessor(Device, "devices", storage=machine, audited=False)
    devices.insert_many([Device(serial=f"{number:06}", label="x" * 200) for number in range(8000)])
    machine.export("backup", tmp_path / "backup.sqlite")
    machine.close()

    def work():
        if what == "restore":
            machine.import_("restore", tmp_path / "backup.sqlite")
        elif what == "scheduled backup":
            take_backup(machine)
        else:
            machine.export("backup", (tmp_path if what == "backup" else small_disk) / "again.sqlite")

    filler = small_disk / "filler"
    filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - left))
    before = content(machine), trail(machine)
    try:
        work()
        outcome = "done"
    except StorageUnavailable as error:
        outcome = str(error)
        assert (content(machine), trail(machine)) == before
        assert list(small_disk.rglob("again*")) == []
    print(f"{what} with {left:,} bytes free: {outcome}")
    assert left > TOO_LITTLE or outcome != "done"
    with machine.snapshot() as connection:
        assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
    assert [path for path in small_disk.rglob("*") if path.suffix in (".tmp", ".part")] == []

    filler.unlink()
    work()
    assert content(machine) == before[0]
