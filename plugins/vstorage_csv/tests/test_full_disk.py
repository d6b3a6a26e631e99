"""A disk that fills up in the middle: a clear error, the database whole, nothing half written left behind."""

import importlib.metadata
import random
import shutil
import tempfile

import pytest
from models import Device
from sqlalchemy import text
from trail import history

from vstorage_core import ModelAccessor, StorageUnavailable

TOO_LITTLE = 100_000
LEFT = [
    TOO_LITTLE,
    *(pytest.param(left, marks=pytest.mark.soak) for left in random.Random(0).sample(range(1_500_000), 9)),
]
RECORDS = 3000


@pytest.mark.parametrize("what", ["export", "import"])
@pytest.mark.parametrize("left", LEFT)
def test_a_full_disk_stops_it_cleanly_and_with_room_it_works(
    what, left, small_disk, open_storage, tmp_path, monkeypatch
):
    # Whatever it would put into the system's folder for temporary files, too.
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    own = [point for point in importlib.metadata.entry_points(group="vstorage.plugins") if point.name == "csv"]
    storage = open_storage(f"sqlite:///{small_disk / 'machine.db'}", entry_points=own)
    devices = ModelAccessor(Device, "devices", storage=storage)
    storage.register(devices)
    chance = random.Random(1)
    devices.insert_many([Device(serial=f"{number:06}", label=chance.randbytes(60).hex()) for number in range(RECORDS)])
    storage.export("csv", tmp_path / "export.zip")
    devices.delete_many([f"{number:06}" for number in range(0, RECORDS, 2)])

    def work():
        if what == "export":
            storage.export("csv", small_disk / "again.zip")
        else:
            storage.import_("csv", tmp_path / "export.zip", tables=["device"])

    filler = small_disk / "filler"
    before = devices.all(), history(storage)
    storage.close()
    filler.write_bytes(b"x" * (shutil.disk_usage(small_disk).free - left))
    try:
        work()
        outcome = "done"
    except StorageUnavailable as error:
        outcome = str(error)
        assert (devices.all(), history(storage)) == before
    print(f"{what} with {left:,} bytes free: {outcome}")
    assert left > TOO_LITTLE or "disk is full" in outcome
    with storage.snapshot() as connection:
        assert connection.scalar(text("PRAGMA integrity_check")) == "ok"
    known = {"machine.db", "machine.db-wal", "machine.db-shm", "filler", *(["again.zip"] if outcome == "done" else [])}
    assert {path.name for path in small_disk.rglob("*")} <= known

    filler.unlink()
    work()
    if what == "import":
        assert devices.count() == RECORDS
