"""Files that must not be imported: each is refused with a sentence, and nothing is written."""

import importlib.metadata
import io
import struct
import tempfile
import zipfile

import pytest
from models import Counter, Team, User

from vstorage_core import ImportRefused, ModelAccessor

USERS = "id,name,email\n1,Ana,ana@example.com\n"


@pytest.fixture
def storage(make_database, open_storage):
    own = [point for point in importlib.metadata.entry_points(group="vstorage.plugins") if point.name == "csv"]
    limits = {"max_import_bytes": 1_000_000, "max_row_bytes": 10_000}
    storage = open_storage(make_database("sqlite"), entry_points=own, config={"csv": limits})
    for model in (User, Counter, Team):
        storage.register(ModelAccessor(model, model.__tablename__, storage=storage))
    ModelAccessor(Counter, "counter", storage=storage).insert(Counter(value=1))
    return storage


def export(storage):
    target = io.BytesIO()
    storage.export("csv", target, tables=["users", "counter"])
    return target.getvalue()


def packed(files, method=zipfile.ZIP_DEFLATED):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target.getvalue()


def exported(storage, change):
    """An export whose members were changed."""
    with zipfile.ZipFile(io.BytesIO(export(storage))) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    return packed(files)


def from_the_future(files):
    files["manifest.json"] = files["manifest.json"].replace(b'format_version": 1', b'format_version": 9')


def encrypted(_storage):
    data = bytearray(packed({"users.csv": USERS}))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + offset] |= 1
    return bytes(data)


def lying(_storage):
    """A zip bomb that says it is small."""
    data = bytearray(packed({"users.csv": "id,name,email\n" + "0" * 5_000_000}))
    start = data.index(b"PK\x01\x02") + 24
    data[start : start + 4] = struct.pack("<I", 100)
    return bytes(data)


def flipped(storage):
    data = bytearray(export(storage))
    data[75] ^= 0xFF
    return bytes(data)


def duplicate(_storage):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("users.csv", USERS)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("users.csv", USERS)
    return target.getvalue()


HOSTILE = {
    "nothing": (lambda _: b"", "begins with an empty line"),
    "a truncated zip": (lambda storage: export(storage)[:-30], "damaged or incomplete"),
    "half a zip": (lambda storage: export(storage)[:200], "damaged or incomplete"),
    "a flipped bit": (flipped, "damaged or incomplete"),
    "a zip bomb": (
        lambda _: packed({"users.csv": "0" * 2_000_000}),
        "has 2,000,000 bytes when it is unpacked; .*allows 1,000,000",
    ),
    "a zip bomb that says it is small": (lying, "damaged or incomplete"),
    "a large file": (lambda _: (USERS + "x" * 1_000_000).encode(), "csv.max_import_bytes allows 1,000,000"),
    "a path": (lambda _: packed({"../users.csv": USERS}), "a member '../users.csv'; pack the CSV files themselves"),
    "an absolute path": (lambda _: packed({"/etc/users.csv": USERS}), "a member '/etc/users.csv'"),
    "a path of Windows": (lambda _: packed({"c:\\users.csv": USERS}), "pack the CSV files themselves"),
    "a folder": (lambda _: packed({"data/users.csv": USERS}), "without a folder"),
    "another file": (lambda _: packed({"users.csv": USERS, "run.exe": "x"}), "'run.exe' that is no CSV file"),
    "two of one name": (duplicate, "two members of the same name"),
    "two of one table": (lambda _: packed({"users.csv": USERS, "users.CSV": USERS}), "are both of the table users"),
    "a password": (encrypted, "users.csv is encrypted"),
    "another compression": (
        lambda _: packed({"users.csv": USERS}, zipfile.ZIP_BZIP2),
        "users.csv is packed in an unusual way",
    ),
    "an empty zip": (lambda _: packed({}), "no CSV file in it"),
    "a manifest alone": (
        lambda storage: exported(storage, lambda f: (f.pop("users.csv"), f.pop("counter.csv"))),
        "no CSV file",
    ),
    "a changed file": (
        lambda storage: exported(storage, lambda f: f.update({"users.csv": USERS.encode()})),
        "manifest.json does not match users.csv.*edited=true",
    ),
    "a missing file": (lambda storage: exported(storage, lambda f: f.pop("users.csv")), "does not match users.csv"),
    "an added file": (
        lambda storage: exported(storage, lambda f: f.update({"team.csv": b"id,name\n"})),
        "does not match team.csv",
    ),
    "no manifest of ours": (
        lambda _: packed({"users.csv": USERS, "manifest.json": "{}"}),
        "manifest.json is not one of vstorage-csv: ",
    ),
    "a newer format": (
        lambda storage: exported(storage, from_the_future),
        "newer format 9; upgrade vstorage-csv",
    ),
    "Latin-1": (
        lambda _: (USERS + "2,Jos\xe9,j@example.com\n").encode("latin-1"),
        "line 3: the byte 0xE9 is not UTF-8; save it as",
    ),
    "UTF-16": (lambda _: USERS.encode("utf-16"), "is UTF-16; save it as 'CSV UTF-8'"),
    "bytes": (lambda _: bytes(range(256)), "has no column"),
    "an unknown column": (
        lambda _: b"id,name,email,emial\n1,a,b@c,d\n",
        "has no column 'emial'; it has id, name, email",
    ),
    "no required column": (lambda _: b"id,name\n1,Ana\n", "the column 'email' is missing"),
    "no key": (lambda _: b"name,email\nAna,a@example.com\n", "the column 'id' is missing; with mode=insert"),
    "a column twice": (lambda _: b"id,name,email,name\n", "two columns are called name"),
    "a column without a name": (lambda _: b"id,,email\n1,2,3\n", "must name every column"),
    "an open quote": (
        lambda _: (USERS + '2,"Ben,b@example.com\n3,Cid,c@example.com\n').encode(),
        "line 3: a quote is opened and never closed",
    ),
    "an open quote in the header": (lambda _: b'id,"name,email\n1,2,3\n', "first line must"),
    "a long row": (
        lambda _: (USERS + "2," + "x" * 20_000 + "\n").encode(),
        "line 3: the row is longer than 10,000 bytes",
    ),
    "a long quote": (
        lambda _: (USERS + '2,"' + "x\n" * 10_000 + "\n").encode(),
        "line 3: the row is longer than 10,000 bytes",
    ),
    "an unknown table": (
        lambda _: packed({"users.csv": USERS, "wrong.csv": "id\n1\n"}),
        "there is no table 'wrong'; the tables are ",
    ),
    "a table without an accessor": (
        lambda _: packed({"users.csv": USERS, "device.csv": "serial\n1\n"}),
        "no accessor writes the table 'device'",
    ),
    "rows after a bad one": (
        lambda _: (USERS + "x,Ben,b@example.com\n3,Cid,c@example.com\n").encode(),
        "line 3: id 'x': is not a whole number",
    ),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_is_refused_and_nothing_is_written(storage, what):
    make, sentence = HOSTILE[what]
    before = export(storage)
    tables = None if make(storage)[:2] == b"PK" else ["users"]
    with pytest.raises(ImportRefused, match=sentence):
        storage.import_("csv", io.BytesIO(make(storage)), tables=tables)
    with zipfile.ZipFile(io.BytesIO(before)) as old, zipfile.ZipFile(io.BytesIO(export(storage))) as new:
        assert old.read("users.csv") == new.read("users.csv")
        assert old.read("counter.csv") == new.read("counter.csv")


def test_an_edited_export_is_imported_when_the_user_says_so(storage):
    data = exported(storage, lambda files: files.update({"users.csv": USERS.encode()}))
    report = storage.import_("csv", io.BytesIO(data), edited=True)
    assert [(table.table, table.create) for table in report.tables] == [("counter", 0), ("users", 1)]


def test_a_table_that_was_not_uploaded_is_refused(storage):
    with pytest.raises(ImportRefused, match="the upload has no file of the table team"):
        storage.import_("csv", io.BytesIO(export(storage)), tables=["team", "users"])


def test_a_refused_file_leaves_the_stream_open(storage):
    stream = io.BytesIO(export(storage)[:-30])
    with pytest.raises(ImportRefused):
        storage.import_("csv", stream)
    assert not stream.closed


def test_an_upload_in_a_spooled_file_is_read(storage):
    for size in (10, 10_000_000):
        with tempfile.SpooledTemporaryFile(max_size=size) as spool:
            spool.write(packed({"team.csv": "id,name\n1,red\n"}))
            spool.seek(0)
            assert storage.import_("csv", spool).tables[0].table == "team"
