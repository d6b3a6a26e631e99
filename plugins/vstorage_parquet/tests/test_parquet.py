"""The files as data tools see them, and files that data tools write."""

import io
import json
import sqlite3
import uuid
import zipfile
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal

import pyarrow
import pyarrow.parquet
import pytest
from models import Color, Counter, Sample, User
from transfers import accessor, counts, export, load, packed, registered

import vstorage_parquet.plugin
from vstorage_core import ImportRefused, InvalidInput

AT = datetime(2026, 1, 31, 8, 30, 0, 125, tzinfo=timezone.utc)


@pytest.fixture
def open_parquet(open_storage):
    def open_(url):
        limits = {"max_import_bytes": 1_000_000}
        return registered(open_storage(url, plugins=[vstorage_parquet.plugin], config={"parquet": limits}))

    return open_


@pytest.fixture
def storage(database_url, open_parquet):
    return open_parquet(database_url)


@pytest.fixture
def sqlite_storage(make_database, open_parquet):
    return open_parquet(make_database("sqlite"))


def written(columns, **options):
    """A Parquet file of these columns."""
    stream = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), stream, **options)
    return stream.getvalue()


# Export


def test_every_column_type_is_a_type_of_parquet(storage):
    filled = {
        "id": 1,
        "text": "é\n",
        "number": -3,
        "ratio": 0.1,
        "flag": True,
        "price": Decimal("12.50"),
        "moment": AT,
        "day": date(2026, 2, 28),
        "clock": time(23, 59, 1),
        "duration": -timedelta(days=2, seconds=1),
        "token": uuid.UUID(int=7),
        "color": Color.BLUE,
        "raw": b"\xff\x00",
        "settings": {"on": True},
    }
    accessor(storage, Sample).insert(Sample(**filled))
    table = pyarrow.parquet.read_table(export(storage, "parquet", table="sample"))
    assert {field.name: str(field.type) for field in table.schema} == {
        "id": "int64",
        "text": "string",
        "number": "int64",
        "ratio": "double",
        "flag": "bool",
        "price": "decimal128(12, 2)",
        "moment": "timestamp[us, tz=UTC]",
        "day": "date32[day]",
        "clock": "time64[us]",
        "duration": "duration[us]",
        "token": "string",
        "color": "string",
        "raw": "binary",
        "settings": "string",
    }
    assert table.schema.field("day").nullable
    assert not table.schema.field("moment").nullable
    [row] = table.to_pylist()
    assert json.loads(row.pop("settings")) == filled.pop("settings")
    assert row == {**filled, "token": str(filled["token"]), "color": "BLUE"}


def test_the_zip_has_a_file_per_table_that_is_not_compressed_twice(sqlite_storage):
    accessor(sqlite_storage, Counter).insert_many([Counter(value=n) for n in range(3)])
    options = {"tables": ["counter", "team"], "where": ["counter.value__gte=1"], "compression": "snappy"}
    with zipfile.ZipFile(export(sqlite_storage, "parquet", **options)) as archive:
        assert archive.namelist() == ["counter.parquet", "team.parquet", "manifest.json"]
        assert archive.getinfo("counter.parquet").compress_type == zipfile.ZIP_STORED
        file = pyarrow.parquet.ParquetFile(io.BytesIO(archive.read("counter.parquet")))
        assert file.metadata.row_group(0).column(0).compression == "SNAPPY"
        assert file.read().to_pydict() == {"id": [2, 3], "value": [1, 2]}
        assert pyarrow.parquet.read_table(io.BytesIO(archive.read("team.parquet"))).num_rows == 0


def test_a_large_table_is_written_in_groups_that_fit_in_memory(sqlite_storage):
    samples = accessor(sqlite_storage, Sample)
    samples.insert_many([Sample(raw=uuid.uuid4().bytes * 10_000) for _ in range(60)])
    file = pyarrow.parquet.ParquetFile(export(sqlite_storage, "parquet", table="sample"))
    groups = [file.metadata.row_group(number).total_byte_size for number in range(file.num_row_groups)]
    assert file.metadata.num_rows == 60
    assert len(groups) > 1
    assert max(groups) < 8_000_000


def test_values_that_the_columns_type_cannot_hold_are_refused_by_name(tmp_path, open_parquet):
    path = tmp_path / "original.db"
    open_parquet(f"sqlite:///{path}").close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO counter VALUES (1, 'many')")
    target = tmp_path / "counter.parquet"
    with pytest.raises(InvalidInput, match=r"counter.value holds values that are no integer.*export the table as CSV"):
        open_parquet(f"sqlite:///{path}").export("parquet", target, table="counter")
    assert not target.exists()


class Full(io.RawIOBase):
    """A disk that is full after some bytes."""

    def __init__(self):
        super().__init__()
        self.data = b""

    def writable(self):
        return True

    def write(self, data):
        if len(self.data) + len(data) > 100:
            raise OSError("no space left")
        self.data += bytes(data)
        return len(data)


@pytest.mark.parametrize("options", [{}, {"table": "counter"}])
def test_half_an_export_looks_like_no_whole_one(sqlite_storage, options):
    accessor(sqlite_storage, Counter).insert(Counter(value=1))
    stream = Full()
    with pytest.raises(OSError, match="no space left"):
        sqlite_storage.export("parquet", stream, **options)
    assert not zipfile.is_zipfile(io.BytesIO(stream.data))
    assert not stream.data.endswith(b"PAR1") or len(stream.data) == 4


# Import


def test_what_data_tools_write_is_understood(sqlite_storage):
    moment = pyarrow.array([AT, None], pyarrow.timestamp("ns", "Europe/Berlin"))
    data = written(
        {
            "moment": moment.fill_null(AT),
            "id": pyarrow.array([1.0, 2.0]),
            "number": pyarrow.array([3, 4], pyarrow.uint16()),
            "ratio": pyarrow.array([0.5, 1.5], pyarrow.float32()),
            "text": pyarrow.array(["a", "b"]).dictionary_encode(),
            "price": [12.5, 3.0],
            "day": pyarrow.array([date(2026, 1, 2), None], pyarrow.date64()),
            "clock": pyarrow.array([time(8, 30), None], pyarrow.time32("s")),
            "duration": pyarrow.array([timedelta(hours=1), None], pyarrow.duration("ns")),
            "settings": [{"a": 1}, {"a": 2}],
            "token": [str(uuid.UUID(int=7)), None],
            "raw": pyarrow.array([b"ab", None], pyarrow.large_binary()),
            "__index_level_0__": [5, 6],
        }
    )
    assert counts(load(sqlite_storage, data, "parquet", tables=["sample"]), "sample")["create"] == 2
    first, second = accessor(sqlite_storage, Sample).all()
    assert (first.id, first.number, first.ratio, first.text, first.price) == (1, 3, 0.5, "a", Decimal("12.50"))
    assert (first.moment, first.day, first.clock) == (AT, date(2026, 1, 2), time(8, 30))
    assert (first.duration, first.settings, first.token) == (timedelta(hours=1), {"a": 1}, uuid.UUID(int=7))
    assert (first.raw, second.raw, second.day) == (b"ab", None, None)


def test_every_bad_value_is_named_with_the_number_of_its_row(storage):
    data = written(
        {
            "id": [1, 2, 3],
            "name": ["Ana", "Ben", None],
            "email": ["ana@example.com", "no address", "cid@example.com"],
            "age": [1.5, -1.0, 3.0],
        }
    )
    with pytest.raises(ImportRefused, match="nothing was imported because of 3 bad rows") as caught:
        load(storage, data, "parquet")
    assert [(d["line"], d["column"], d["value"], d["reason"]) for d in caught.value.details] == [
        (1, "age", "1.5", "is of the type float where the column has integer"),
        (2, "email", "no address", "an address has an @"),
        (2, "age", "-1.0", "Input should be greater than or equal to 0"),
        (3, "name", None, "Input should be a valid string"),
    ]
    assert accessor(storage, User).count() == 0
    report = load(storage, data, "parquet", on_error="skip")
    assert report.tables[0].errors_file is None


def flipped(storage):
    """A file in which one value was changed, so that only the checksum tells."""
    accessor(storage, Counter).insert(Counter(value=77))
    data = export(storage, "parquet", table="counter", compression="none").read()
    accessor(storage, Counter).delete(1)
    return data.replace(b"\x4d" + bytes(7), b"\x4e" + bytes(7), 1)


HOSTILE = {
    "nothing": (lambda _: b"", "the file is damaged or no Parquet file"),
    "text": (lambda _: b"id,value\n1,2\n", "the file is damaged or no Parquet file"),
    "half a file": (lambda _: written({"id": [1], "value": [2]})[:-20], "the file is damaged or no Parquet file"),
    "a flipped bit": (flipped, "the file is damaged or no Parquet file"),
    "a bomb": (
        lambda _: written({"id": list(range(200_000)), "value": list(range(200_000))}, use_dictionary=False),
        r"when it is unpacked; the setting parquet.max_import_bytes allows 1,000,000",
    ),
    "a truncated zip": (lambda storage: export(storage, "parquet").getvalue()[:-30], "damaged or incomplete"),
    "no parquet in the zip": (
        lambda _: packed({"counter.parquet": "x"}).getvalue(),
        "counter.parquet is damaged or no",
    ),
    "an unknown column": (lambda _: written({"id": [1], "valeu": [2]}), "has no column 'valeu'; it has id, value"),
    "a key that is missing": (lambda _: written({"value": [1]}), "the column 'id' is missing; with mode=insert"),
    "nanoseconds that nobody can keep": (
        lambda _: written({"id": [1], "value": pyarrow.array([1], pyarrow.timestamp("ns"))}),
        r"the column value cannot be read as timestamp\[ns\]",
    ),
    "a list": (lambda _: written({"id": [1], "value": [[1]]}), "value '\\[1\\]': is of the type list where the column"),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_file_is_refused_and_nothing_is_written(sqlite_storage, what):
    make, sentence = HOSTILE[what]
    data = make(sqlite_storage)
    with pytest.raises(ImportRefused, match=sentence):
        load(sqlite_storage, data, "parquet", tables=None if data[:2] == b"PK" else ["counter"])
    assert accessor(sqlite_storage, Counter).count() == 0
