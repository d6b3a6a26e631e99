"""The export, as somebody sees it who opens the zip."""

import csv
import hashlib
import io
import json
import sqlite3
import threading
import tracemalloc
import uuid
import zipfile
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal

import psycopg
import pytest
import sqlalchemy
from fastapi import FastAPI
from fastapi.testclient import TestClient
from models import Color, Counter, Device, Sample, Team, User

import vstorage_csv.plugin
import vstorage_rest.plugin
from vstorage_core import ConfigurationError, InvalidInput, ModelAccessor, acting_as, bootstrap

AT = datetime(2026, 1, 31, 8, 30, 0, 125, tzinfo=timezone.utc)


@pytest.fixture
def open_csv(open_storage):
    return lambda url: open_storage(url, plugins=[vstorage_csv.plugin])


@pytest.fixture
def storage(database_url, open_csv):
    return open_csv(database_url)


@pytest.fixture
def sqlite_storage(make_database, open_csv):
    return open_csv(make_database("sqlite"))


def export(storage, **options):
    """The members of an export by name, as text."""
    target = io.BytesIO()
    storage.export("csv", target, **options)
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name).decode() for name in archive.namelist()}


def insert(storage, *instances):
    for instance in instances:
        ModelAccessor(type(instance), type(instance).__tablename__, storage=storage).insert(instance)


def user(name, **fields):
    return User(name=name, email=f"{uuid.uuid4()}@example.com", **fields)


def test_every_column_type_has_one_exact_text(storage):
    filled = Sample(
        id=1,
        text='a "quoted",\nline',
        number=-3,
        ratio=0.1,
        flag=True,
        price=Decimal("12.50"),
        moment=AT,
        day=date(2026, 2, 28),
        clock=time(23, 59, 1),
        duration=-timedelta(days=2, seconds=1),
        token=uuid.UUID(int=7),
        color=Color.BLUE,
        raw=b"\xff\x00",
        settings={"on": True, "text": "é"},
    )
    insert(storage, filled, Sample(id=2, moment=AT.replace(microsecond=0), raw=b""))
    member = export(storage, tables=["sample"])["sample.csv"]
    assert member == (
        '"id","text","number","ratio","flag","price","moment","day","clock","duration","token","color","raw","settings"\n'
        '1,"a ""quoted"",\nline",-3,0.1,true,12.50,2026-01-31T08:30:00.000125+00:00,2026-02-28,23:59:01,-P2DT1.000000S,'
        '00000000-0000-0000-0000-000000000007,"BLUE","/wA=","{""on"": true, ""text"": ""\\u00e9""}"\n'
        '2,"",0,0.0,false,0.00,2026-01-31T08:30:00.000000+00:00,,,,,"RED","","{}"\n'
    )


def test_null_and_the_empty_text_differ(storage):
    insert(storage, Device(serial="a", label=""), user("", age=None))
    members = export(storage)
    assert members["device.csv"].splitlines()[1] == '"a",""'
    assert members["users.csv"].splitlines()[1].endswith(",,")


def test_postgresql_reads_an_exact_file_with_copy(make_database, open_csv):
    url = make_database("postgresql")
    storage = open_csv(url)
    insert(
        storage, *(Device(serial=f"{n}", label=label) for n, label in enumerate(["", "NULL", "\\N", 'a"b', "a,b\r\n"]))
    )
    member = export(storage)["device.csv"]
    plain_url = sqlalchemy.make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain_url) as connection:
        connection.execute("CREATE TABLE copied (LIKE device)")
        with connection.cursor().copy("COPY copied FROM STDIN (FORMAT csv, HEADER match)") as copy:
            copy.write(member)
        rows = connection.execute("SELECT * FROM copied ORDER BY serial").fetchall()
        assert rows == connection.execute("SELECT * FROM device ORDER BY serial").fetchall()
        assert len(rows) == 5


def test_the_manifest_says_what_the_archive_contains(storage):
    with acting_as("ana"):
        insert(storage, Counter(value=1), Counter(value=2))
    members = export(storage)
    manifest = json.loads(members.pop("manifest.json"))
    assert (manifest["format"], manifest["format_version"], manifest["dialect"]) == ("vstorage-csv", 1, "exact")
    assert manifest["engine"] == storage.engine.name
    assert datetime.now(timezone.utc) - datetime.fromisoformat(manifest["taken_at"].replace("Z", "+00:00")) < timedelta(
        minutes=1
    )
    assert {table["file"] for table in manifest["tables"]} == set(members)
    for table in manifest["tables"]:
        text = members[table["file"]]
        assert table["sha256"] == hashlib.sha256(text.encode()).hexdigest()
        assert [column["name"] for column in table["columns"]] == next(csv.reader(io.StringIO(text)))
    by_name = {table["name"]: table for table in manifest["tables"]}
    assert by_name["counter"]["rows"] == by_name["auditlog"]["rows"] == 2
    assert by_name["counter"]["columns"] == [{"name": "id", "type": "integer"}, {"name": "value", "type": "integer"}]
    assert [name for name in by_name if name in ("team", "member")] == ["team", "member"]


def test_the_audit_trail_is_exported_with_its_snapshots_as_json(storage):
    with acting_as("ana", reason="why, indeed"):
        insert(storage, Device(serial="00x", label='"'))
    header, row = csv.reader(export(storage)["auditlog.csv"].splitlines())
    trail = dict(zip(header, row, strict=True))
    assert (trail["component"], trail["record_id"], trail["actor"], trail["reason"]) == (
        "device",
        "00x",
        "ana",
        "why, indeed",
    )
    assert json.loads(trail["after"]) == {"serial": "00x", "label": '"'}
    assert trail["before"] == ""


def test_all_tables_come_from_one_moment(make_database, open_csv):
    for engine in ("sqlite", "postgresql"):
        storage = open_csv(make_database(engine))
        counters = ModelAccessor(Counter, "counters", storage=storage)
        counter = counters.insert(Counter(value=0))
        stop = threading.Event()

        def write(counters=counters, id=counter.id, stop=stop):
            value = 0
            while not stop.is_set():
                value += 1
                counters.update(id, value=value)

        writer = threading.Thread(target=write)
        writer.start()
        try:
            for _ in range(5):
                members = export(storage, compression_level=0)
                value = int(members["counter.csv"].splitlines()[1].split(",")[1])
                # Each update leaves one audit row, in the same transaction.
                assert len(members["auditlog.csv"].splitlines()) == 2 + value
        finally:
            stop.set()
            writer.join()


def test_only_the_named_tables_are_written(sqlite_storage):
    assert set(export(sqlite_storage, tables=["team", "counter"])) == {"counter.csv", "team.csv", "manifest.json"}


def test_an_unknown_table_is_refused_with_the_names_that_exist(sqlite_storage):
    with pytest.raises(InvalidInput, match=r"there is no table wrong; the tables are .*counter"):
        export(sqlite_storage, tables=["wrong", "team"])


def test_soft_deleted_records_are_left_out_on_request(storage):
    users = ModelAccessor(User, "users", storage=storage)
    kept, gone = users.insert(user("kept")), users.insert(user("gone"))
    users.delete(gone.id)
    assert "gone" in export(storage)["users.csv"]
    members = export(storage, deleted=False)
    assert "gone" not in members["users.csv"]
    assert kept.name in members["users.csv"]
    counts = {table["name"]: table["rows"] for table in json.loads(members["manifest.json"])["tables"]}
    assert counts["users"] == 1


def test_filters_choose_the_rows_and_stand_in_the_manifest(storage):
    insert(storage, user("Ana", age=30), user("Ben"), user("Cid", age=70), Counter(value=1))
    where = ["users.age__gte=18", "users.name__ne=Cid", "auditlog.record_id=1"]
    members = export(storage, where=where)
    assert [row[1] for row in csv.reader(members["users.csv"].splitlines())] == ["name", "Ana"]
    assert len(members["counter.csv"].splitlines()) == 2
    assert len(members["auditlog.csv"].splitlines()) == 3
    manifest = json.loads(members["manifest.json"])
    assert manifest["where"] == where
    assert {table["name"]: table["rows"] for table in manifest["tables"]}["users"] == 1


def test_a_single_table_is_a_csv_file(storage):
    insert(storage, Device(serial="a", label="=1"), Device(serial="b"))
    stream = io.BytesIO()
    storage.export("csv", stream, table="device", where=["serial=a"], dialect="spreadsheet", delimiter=";")
    assert stream.getvalue().decode() == '\ufeff"serial";"label"\r\n"a";"\'=1"\r\n'


@pytest.mark.parametrize("start", "=+-@\t\r\n\uff1d\uff0b\uff0d\uff20'")
def test_a_spreadsheet_gets_no_formula(sqlite_storage, start):
    insert(sqlite_storage, Device(serial="1", label=f"{start}cmd|' /C calc'!A0"), Counter(value=-5))
    members = export(sqlite_storage, dialect="spreadsheet")
    rows = list(csv.reader(io.StringIO(members["device.csv"].removeprefix("\ufeff"), newline="")))
    assert rows[1] == ["1", f"'{start}cmd|' /C calc'!A0"]
    assert members["counter.csv"].endswith("1,-5\r\n")  # a number stays a number


def test_a_spreadsheet_gets_what_it_recognises(sqlite_storage):
    insert(sqlite_storage, Sample(id=1, flag=True, moment=AT.replace(microsecond=0), text="é;x"))
    member = export(sqlite_storage, dialect="spreadsheet", delimiter=";")["sample.csv"]
    assert member.startswith('\ufeff"id";"text";')
    assert member.endswith("\r\n")
    header, row = csv.reader(io.StringIO(member.removeprefix("\ufeff"), newline=""), delimiter=";")
    cells = dict(zip(header, row, strict=True))
    assert (cells["flag"], cells["moment"], cells["text"]) == ("TRUE", "2026-01-31 08:30:00", "é;x")


def test_a_machine_has_its_own_defaults(make_database, open_storage, monkeypatch):
    monkeypatch.setenv("VSTORAGE_CSV__DELIMITER", ";")
    monkeypatch.setenv("VSTORAGE_CSV__DIALECT", "spreadsheet")
    storage = open_storage(make_database("sqlite"), plugins=[vstorage_csv.plugin])
    assert export(storage)["counter.csv"] == '\ufeff"id";"value"\r\n'
    assert export(storage, delimiter=",")["counter.csv"] == '\ufeff"id","value"\r\n'
    assert export(storage, dialect="exact")["counter.csv"].startswith('"id","value"')
    with pytest.raises(InvalidInput, match="exact files have one form"):
        export(storage, dialect="exact", delimiter=";")
    monkeypatch.setenv("VSTORAGE_CSV__DELIMITER", "|")
    with pytest.raises(ConfigurationError, match="configuration 'csv': delimiter"):
        open_storage(make_database("sqlite"), plugins=[vstorage_csv.plugin]).export("csv", io.BytesIO())


def test_compression_level_0_stores_the_text_as_it_is(sqlite_storage):
    insert(sqlite_storage, *(Device(serial=f"{n}", label="same text") for n in range(100)))
    sizes = []
    for level in (0, 1, 9):
        target = io.BytesIO()
        sqlite_storage.export("csv", target, compression_level=level)
        sizes.append(len(target.getvalue()))
    assert sizes[0] > 2 * sizes[1] > 2 * sizes[2]


@pytest.mark.parametrize(
    "options", [{"dialect": "excel"}, {"delimiter": "|"}, {"compression_level": 10}, {"tabels": []}]
)
def test_an_option_that_cannot_be_is_refused_by_name(sqlite_storage, options):
    with pytest.raises(InvalidInput, match=next(iter(options))):
        export(sqlite_storage, **options)


def test_progress_counts_the_rows_of_each_table(sqlite_storage):
    ModelAccessor(Counter, "counters", storage=sqlite_storage, audited=False).insert_many(
        [Counter() for _ in range(3000)]
    )
    reports = []
    sqlite_storage.export("csv", io.BytesIO(), progress=reports.append)
    own = [(report.done, report.total) for report in reports if report.label == "counter"]
    assert own[0] == (0, 3000)
    assert own[-1] == (3000, 3000)
    assert len(own) > 3


def test_memory_stays_small_however_large_the_cells_are(storage):
    samples = ModelAccessor(Sample, "samples", storage=storage, audited=False)
    for _ in range(10):
        samples.insert_many([Sample(raw=bytes(60_000)) for _ in range(30)])
    tracemalloc.start()
    try:
        storage.export("csv", _Stream(1_000_000))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 6_000_000


class _Stream(io.RawIOBase):
    """Only written, and full after some bytes."""

    def __init__(self, room):
        super().__init__()
        self.room = room
        self.data = b""

    def writable(self):
        return True

    def write(self, data):
        if len(self.data) + len(data) > self.room:
            raise OSError("no space left")
        self.data += bytes(data)
        return len(data)


def test_a_database_of_the_original_comes_out_whole_with_what_its_columns_should_not_hold(tmp_path, open_csv):
    path = tmp_path / "original.db"
    with sqlite3.connect(path) as connection:
        connection.executescript("""
            CREATE TABLE users (
                id INTEGER NOT NULL, name VARCHAR NOT NULL, email VARCHAR NOT NULL, age INTEGER, deleted_at DATETIME,
                PRIMARY KEY (id)
            );
            CREATE TABLE sample (
                id INTEGER NOT NULL, text VARCHAR NOT NULL, number INTEGER NOT NULL, ratio FLOAT NOT NULL,
                flag BOOLEAN NOT NULL, price NUMERIC(12, 2) NOT NULL, moment DATETIME NOT NULL, day DATE, clock TIME,
                duration DATETIME, token CHAR(32), color VARCHAR(4) NOT NULL, raw BLOB, settings JSON NOT NULL,
                PRIMARY KEY (id)
            );
            CREATE TABLE auditlog (
                id INTEGER NOT NULL, timestamp DATETIME NOT NULL, component VARCHAR NOT NULL,
                record_id INTEGER NOT NULL, operation VARCHAR NOT NULL, actor VARCHAR NOT NULL, before JSON, after JSON,
                PRIMARY KEY (id)
            );
            INSERT INTO users VALUES (1, 'Ana', 'a@example.com', '=old,', NULL);
            INSERT INTO users VALUES (2, 'Ben', 'b@example.com', 30, '2025-01-02 03:04:05.678901');
            INSERT INTO sample VALUES (1, 'x', 1, 'much', 1, 9e999, '2025-01-02 03:04:05', NULL, NULL,
                NULL, NULL, 'RED', NULL, '1.5');
            INSERT INTO sample VALUES (2, 'x', 1, 0.5, 1, 2, '2025-01-02 03:04:05.000000', NULL, NULL,
                NULL, NULL, 'RED', NULL, '{"a":1}');
            INSERT INTO auditlog VALUES (1, '2025-01-02 03:04:05.678901', 'users', 1, 'create', 'ana', 'null',
                '{"id": 1, "name": "Ana"}');
        """)
    members = export(open_csv(f"sqlite:///{path}"))
    assert members["users.csv"].splitlines()[1:] == [
        '1,"Ana","a@example.com","=old,",',
        '2,"Ben","b@example.com",30,2025-01-02T03:04:05.678901+00:00',
    ]
    assert members["sample.csv"].splitlines()[1:] == [
        '1,"x",1,much,true,inf,2025-01-02T03:04:05.000000+00:00,,,,,"RED",,"1.5"',
        '2,"x",1,0.5,true,2.00,2025-01-02T03:04:05.000000+00:00,,,,,"RED",,"{""a"":1}"',
    ]
    assert members["auditlog.csv"].splitlines()[1] == (
        '1,2025-01-02T03:04:05.678901+00:00,"users","1","create","ana","null","{""id"": 1, ""name"": ""Ana""}",,,,,'
    )


def test_the_stream_need_not_be_seekable_and_stays_open(sqlite_storage):
    insert(sqlite_storage, Team(name="a"))
    stream = _Stream(1_000_000)
    sqlite_storage.export("csv", stream)
    assert not stream.closed
    assert zipfile.ZipFile(io.BytesIO(stream.data)).read("team.csv") == b'"id","name"\n1,"a"\n'


def test_half_an_export_is_not_a_zip_file(sqlite_storage):
    insert(sqlite_storage, Team(name="a"))
    stream = _Stream(150)
    with pytest.raises(OSError, match="no space left"):
        sqlite_storage.export("csv", stream)
    assert not zipfile.is_zipfile(io.BytesIO(stream.data))


def test_an_unreadable_database_leaves_no_file(tmp_path, make_database, open_csv):
    storage = open_csv(make_database("sqlite"))
    with sqlite3.connect(storage.engine.url.database) as connection:
        connection.execute("DROP TABLE team")
        connection.execute("CREATE TABLE team (id INTEGER PRIMARY KEY)")
    with pytest.raises(Exception, match="team"):
        storage.export("csv", tmp_path / "export.zip")
    assert not (tmp_path / "export.zip").exists()


def test_it_is_served_over_http(make_database, open_storage):
    storage = open_storage(make_database("sqlite"), plugins=[vstorage_csv.plugin, vstorage_rest.plugin])
    app = FastAPI()
    bootstrap(app, accessors=[ModelAccessor(Team, "teams", storage=storage)], storage=storage)
    insert(storage, Team(name="a"))
    client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000))
    answer = client.get("/db/export.zip", params={"tables": ["team", "users"], "dialect": "spreadsheet"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.namelist() == ["team.csv", "users.csv", "manifest.json"]
    assert client.get("/db/export.zip", params={"tables": "wrong"}).status_code == 422
