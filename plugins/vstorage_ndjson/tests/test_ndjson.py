"""The lines of JSON, as somebody sees them who reads them with a tool of his own, and who writes some."""

import io
import json
import sqlite3
import tracemalloc
import uuid
import zipfile
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal

import pytest
from models import Color, Counter, Sample, User
from transfers import accessor, counts, export, load, packed, registered

import vstorage_ndjson.plugin
from vstorage_core import ImportRefused, ModelAccessor

AT = datetime(2026, 1, 31, 8, 30, 0, 125, tzinfo=timezone.utc)
USERS = '{"id": 1, "name": "Ana", "email": "ana@example.com"}\n'


@pytest.fixture
def open_ndjson(open_storage):
    limits = {"max_import_bytes": 1_000_000, "max_row_bytes": 10_000}

    def open_(url):
        return registered(open_storage(url, plugins=[vstorage_ndjson.plugin], config={"ndjson": limits}))

    return open_


@pytest.fixture
def storage(database_url, open_ndjson):
    return open_ndjson(database_url)


@pytest.fixture
def sqlite_storage(make_database, open_ndjson):
    return open_ndjson(make_database("sqlite"))


def lines(storage, table, **options):
    return export(storage, "ndjson", table=table, **options).read().decode().splitlines()


# Export


def test_every_column_type_has_one_spelling(storage):
    accessor(storage, Sample).insert(
        Sample(
            id=1,
            text='a "quoted",\nline é',
            number=-3,
            ratio=1e22,
            flag=True,
            price=Decimal("12.50"),
            moment=AT,
            day=date(2026, 2, 28),
            clock=time(23, 59, 1),
            duration=-timedelta(days=2, seconds=1),
            token=uuid.UUID(int=7),
            color=Color.BLUE,
            raw=b"\xff\x00",
            settings={"on": [True, None, 1.5], "text": "é"},
        )
    )
    [line] = lines(storage, "sample")
    record = json.loads(line)
    assert record["settings"] == {"on": [True, None, 1.5], "text": "é"}
    assert line.partition(',"settings"')[0] == (
        r'{"id":1,"text":"a \"quoted\",\nline é","number":-3,"ratio":1e+22,"flag":true,"price":"12.50",'
        '"moment":"2026-01-31T08:30:00.000125+00:00","day":"2026-02-28","clock":"23:59:01","duration":"-P2DT1.000000S",'
        '"token":"00000000-0000-0000-0000-000000000007","color":"BLUE","raw":"/wA="'
    )


def test_null_is_null_and_an_empty_table_is_an_empty_file(storage):
    assert lines(storage, "users") == []
    accessor(storage, User).insert(User(name="", email="a@example.com"))
    assert json.loads(lines(storage, "users")[0]) == {
        "id": 1, "name": "", "email": "a@example.com", "age": None, "deleted_at": None
    }  # fmt: skip


def test_the_zip_has_a_file_per_table_and_a_manifest(sqlite_storage):
    accessor(sqlite_storage, Counter).insert_many([Counter(value=n) for n in range(3)])
    with zipfile.ZipFile(
        export(sqlite_storage, "ndjson", tables=["counter", "team"], where=["counter.value__gte=1"])
    ) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert archive.namelist() == ["counter.ndjson", "team.ndjson", "manifest.json"]
        assert archive.read("counter.ndjson") == b'{"id":2,"value":1}\n{"id":3,"value":2}\n'
    assert (manifest["format"], manifest["where"]) == ("vstorage-ndjson", ["counter.value__gte=1"])
    assert manifest["tables"][0]["columns"] == [{"name": "id", "type": "integer"}, {"name": "value", "type": "integer"}]


def test_each_line_is_json_whatever_a_database_of_the_original_holds(tmp_path, open_ndjson):
    path = tmp_path / "original.db"
    open_ndjson(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        connection.executemany(
            "INSERT INTO sample (id, text, number, ratio, flag, price, moment, color, settings)"
            " VALUES (?, 'x', ?, ?, 1, 2, '2025-01-02', 'RED', ?)",
            [(1, "old", float("inf"), '{"a":\n1}'), (2, 1, "nan", '{"a": NaN}'), (3, 1, 0.5, "1.5")],
        )
    found = [json.loads(line) for line in lines(open_ndjson(f"sqlite:///{path}"), "sample")]
    assert [record["number"] for record in found] == ["old", 1, 1]
    assert [record["ratio"] for record in found] == ["inf", "nan", 0.5]
    assert [record["settings"] for record in found] == [{"a": 1}, '{"a": NaN}', 1.5]


def test_memory_stays_small_however_large_the_cells_are(sqlite_storage):
    samples = ModelAccessor(Sample, "samples", storage=sqlite_storage, audited=False)
    for _ in range(10):
        samples.insert_many([Sample(raw=bytes(60_000)) for _ in range(30)])
    tracemalloc.start()
    try:
        sqlite_storage.export("ndjson", io.BytesIO())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8_000_000


# Import


def test_what_data_tools_write_is_understood(sqlite_storage):
    # Whole numbers as floats as soon as one is missing, decimals as numbers, columns in any order, some left out.
    load(
        sqlite_storage,
        '\ufeff{"price": 12.5, "id": 1.0, "number": 3.0, "ratio": 2, "moment": "2026-01-31T08:30:00Z", "flag": true}'
        "\n\n"
        '{"id": 2, "price": 3, "flag": "true", "settings": {"a": null}, "raw": "AA=="}\r\n',
        "ndjson",
        tables=["sample"],
    )
    first, second = accessor(sqlite_storage, Sample).all()
    assert (first.price, first.number, first.ratio, first.flag) == (Decimal("12.50"), 3, 2.0, True)
    assert first.moment == datetime(2026, 1, 31, 8, 30, tzinfo=timezone.utc)
    assert (second.price, second.flag, second.settings, second.raw) == (Decimal(3), True, {"a": None}, b"\0")


BAD = """{"id": 1, "name": "Ana", "email": "ana@example.com", "age": "old"}
{"id": 2, "name": 5, "email": "no address", "age": -1}
{"id": 3, "name": "Cid", "email": "cid@example.com", "agee": 3}
{"id": 4, "name": "Dee", "email": "dee@example.com"}
{"id": 5, "name": "Eve"}
{"id": 6, "name": "Fay", "email"
[7]
{"id": 8, "name": "Gus", "email": "gus@example.com", "age": 1.5}
"""


def test_every_bad_value_is_named_and_nothing_is_stored(storage):
    with pytest.raises(ImportRefused, match="nothing was imported because of 7 bad rows") as caught:
        load(storage, BAD, "ndjson")
    found = [(d["line"], d["column"], d["value"], d["reason"]) for d in caught.value.details]
    assert found[:2] + found[2:5] + found[6:] == [
        (1, "age", "old", "is not a whole number"),
        (2, "name", "5", "is of the type int where the column has text"),
        (3, "agee", "3", "is no column of the table"),
        (5, "email", None, "Field required"),
        (6, None, None, "is not JSON: Expecting ':' delimiter: line 1 column 33 (char 32)"),
        (8, "age", "1.5", "is of the type float where the column has integer"),
    ]
    assert found[5] == (7, None, None, 'is no JSON object such as {"id": 1}')
    assert accessor(storage, User).count() == 0


def test_the_file_of_bad_rows_completes_the_data_when_it_is_repaired(sqlite_storage):
    bad = set(range(17, 1000, 50))
    records = [
        {"id": n, "name": f"User {n}", "email": f"u{n}@example.com", "age": "x" if n in bad else n % 90}
        for n in range(1, 1021)
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    report = load(sqlite_storage, text, "ndjson", on_error="skip")
    assert (counts(report, "users")["create"], counts(report, "users")["bad"]) == (1000, 20)
    errors = report.tables[0].errors_file
    assert [(e["#line"], e["#column"], e["id"]) for e in map(json.loads, errors.splitlines())] == [
        (n, "age", n) for n in sorted(bad)
    ]
    report = load(sqlite_storage, errors.replace('"age": "x"', '"age": 7'), "ndjson")
    assert counts(report, "users")["create"] == 20
    assert accessor(sqlite_storage, User).count() == 1020


def test_a_part_of_a_table_does_not_replace_it(sqlite_storage):
    accessor(sqlite_storage, Counter).insert_many([Counter(value=n) for n in range(3)])
    file = export(sqlite_storage, "ndjson", tables=["counter"], where=["value__gte=1"])
    with pytest.raises(ImportRefused, match=r"only the records where value__gte=1; replace would delete all others"):
        sqlite_storage.import_("ndjson", file, mode="replace")
    assert accessor(sqlite_storage, Counter).count() == 3


def other_format(storage):
    with zipfile.ZipFile(export(storage, "ndjson")) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    files["manifest.json"] = files["manifest.json"].replace(b"vstorage-ndjson", b"vstorage-csv")
    return packed(files).getvalue()


HOSTILE = {
    "a truncated zip": (lambda storage: export(storage, "ndjson").getvalue()[:-30], "damaged or incomplete"),
    "a zip of another format": (
        other_format,
        "manifest.json says that the file is of 'vstorage-csv'; import it as csv",
    ),
    "a zip bomb": (lambda _: packed({"users.ndjson": "0" * 2_000_000}).getvalue(), "ndjson.max_import_bytes allows"),
    "another file": (lambda _: packed({"users.csv": USERS}).getvalue(), "'users.csv' that is no NDJSON file"),
    "a long line": (lambda _: (USERS + "0" * 20_000).encode(), "line 2: the row is longer than 10,000 bytes"),
    "a long number": (lambda _: (USERS + '{"id": ' + "1" * 5000 + "}\n").encode(), "line 2: is not JSON"),
    "deep nesting": (lambda _: (USERS + "[" * 9000).encode(), "line 2: is not JSON"),
    "Latin-1": (lambda _: USERS.replace("Ana", "Jos\xe9").encode("latin-1"), "line 1: the byte 0xE9 is not UTF-8"),
    "UTF-16": (lambda _: USERS.encode("utf-16"), "is UTF-16; write it in UTF-8"),
    "half a character": (
        lambda _: b'{"id": 1, "name": "\\ud800", "email": "a@b"}\n',
        r"line 1: name '\\\\ud800': Input should be a valid string",
    ),
    "no number": (lambda _: b'{"id": NaN, "name": "a", "email": "a@b"}\n', "line 1: id 'NaN': is of the type float"),
    "an array": (lambda _: b"[1]\n", 'line 1: is no JSON object such as {"id": 1}'),
    "nothing": (lambda _: b"", "the file has no rows"),
    "an unknown column": (lambda _: b'{"id": 1, "emial": "x"}\n', "has no column 'emial'; it has id, name, email"),
    "no required column": (lambda _: b'{"id": 1, "name": "x"}\n', "the column 'email' is missing"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_is_refused_and_nothing_is_written(sqlite_storage, what):
    make, sentence = HOSTILE[what]
    data = make(sqlite_storage)
    tables = None if data[:2] == b"PK" or what == "nothing" else ["users"]
    with pytest.raises(ImportRefused, match=sentence):
        load(sqlite_storage, data, "ndjson", tables=tables)
    assert accessor(sqlite_storage, User).count() == 0
