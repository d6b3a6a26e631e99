"""Whatever a model can hold comes back bit for bit."""

import io
from datetime import datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from models import Color, Sample
from sqlalchemy import delete
from sqlmodel import select

import vstorage_csv.plugin
import vstorage_ndjson.plugin
import vstorage_parquet.plugin
from vstorage_core import AuditLog, ModelAccessor

PLUGINS = [vstorage_csv.plugin, vstorage_ndjson.plugin, vstorage_parquet.plugin]
FORMATS = [
    ("csv", {}),
    ("csv", {"dialect": "spreadsheet", "delimiter": ";", "decimal_comma": True}),
    ("ndjson", {}),
    ("parquet", {}),
]

# What every database keeps: no NUL, no half characters, whole numbers of 64 bits.
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40) | st.sampled_from(
    [
        "",
        "'",
        "''=",
        "=1+1",
        "-1",
        '"',
        '""',
        "\n",
        "\r\n",
        "\r",
        ",",
        "\\N",
        "NULL",
        "null",
        " ",
        "\ufeff",
        "#x",
        "\u2028",
    ]
)
whole_numbers = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | whole_numbers | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
samples = st.fixed_dictionaries(
    {
        "text": texts,
        "number": st.integers(-(2**31), 2**31 - 1),
        "ratio": floats.map(lambda number: number + 0.0),  # SQLite keeps no -0.0
        "flag": st.booleans(),
        "price": st.integers(-(10**12) + 1, 10**12 - 1).map(lambda cents: Decimal(cents).scaleb(-2)),
        "moment": st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(  # noqa: DTZ001
            lambda moment: moment.replace(tzinfo=timezone(timedelta(hours=5, minutes=30)))
        ),
        "day": st.none() | st.dates(),
        "clock": st.none() | st.times(),
        "duration": st.none() | st.timedeltas(timedelta(days=-20_000), timedelta(days=20_000)),
        "token": st.none() | st.uuids(),
        "color": st.sampled_from(Color),
        "raw": st.none() | st.binary(max_size=40),
        "settings": st.dictionaries(texts, json_values, max_size=3),
    }
)


@pytest.fixture(params=["sqlite", "postgresql"])
def pair(request, make_database, open_storage):
    """Two databases, the accessor of the samples in each."""
    return [
        ModelAccessor(Sample, "samples", storage=open_storage(make_database(request.param), plugins=PLUGINS))
        for _ in range(2)
    ]


def export(accessor, name, **options):
    target = io.BytesIO()
    accessor.storage.export(name, target, **options)
    return target


def trail(accessor):
    with accessor.storage.use_session() as session:
        rows = session.exec(select(AuditLog).order_by(AuditLog.id)).all()
        return [(row.record_id, row.operation, repr(row.before), repr(row.after)) for row in rows]


# Floats and JSON by their text, because -0.0 equals 0.0, and 1 equals true.
def rows(accessor):
    return [repr([getattr(sample, name) for name in Sample.model_fields]) for sample in accessor.all()]


@settings(
    max_examples=30,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(values=st.lists(samples, max_size=4), chosen=st.sampled_from(FORMATS), single=st.booleans())
def test_any_rows_survive_export_and_import_with_their_audit(pair, values, chosen, single):
    source, target = pair
    for accessor in pair:
        with accessor.storage.engine.begin() as connection:
            connection.execute(delete(Sample))
            connection.execute(delete(AuditLog))
    source.insert_many([Sample(**fields) for fields in values])
    name, options = chosen
    which = {"table": "sample"} if single else {"tables": ["sample"]}
    reading = {"tables": ["sample"]}
    if name == "csv" and single:
        # A single file has no manifest that could tell.
        reading |= {"dialect": options.get("dialect", "exact"), "decimal_comma": options.get("decimal_comma")}
    file = export(source, name, **which, **options)
    report = target.storage.import_(name, file, mode="insert", **reading)
    assert report.tables[0].create == len(values)
    assert rows(target) == rows(source)
    assert trail(target) == trail(source)
    report = target.storage.import_(name, file, dry_run=True, **reading)
    assert report.tables[0].unchanged == len(values)
