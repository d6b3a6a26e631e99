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
from vstorage_core import AuditLog, ModelAccessor

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
        ModelAccessor(
            Sample, "samples", storage=open_storage(make_database(request.param), plugins=[vstorage_csv.plugin])
        )
        for _ in range(2)
    ]


def export(accessor, **options):
    target = io.BytesIO()
    accessor.storage.export("csv", target, tables=["sample"], **options)
    return target


def trail(accessor):
    with accessor.storage.use_session() as session:
        rows = session.exec(select(AuditLog).order_by(AuditLog.id)).all()
        return [(row.record_id, row.operation, repr(row.before), repr(row.after)) for row in rows]


# Floats and JSON by their text, because -0.0 equals 0.0, and 1 equals true.
def rows(accessor):
    return [repr([getattr(sample, name) for name in Sample.model_fields]) for sample in accessor.all()]


@settings(
    max_examples=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(values=st.lists(samples, max_size=4), dialect=st.sampled_from(["exact", "exact", "spreadsheet"]))
def test_any_rows_survive_export_and_import_with_their_audit(pair, values, dialect):
    source, target = pair
    for accessor in pair:
        with accessor.storage.engine.begin() as connection:
            connection.execute(delete(Sample))
            connection.execute(delete(AuditLog))
    source.insert_many([Sample(**fields) for fields in values])
    report = target.storage.import_("csv", export(source, dialect=dialect), mode="insert")
    assert report.tables[0].create == len(values)
    assert rows(target) == rows(source)
    assert trail(target) == trail(source)
    report = target.storage.import_("csv", export(source, dialect=dialect), dry_run=True)
    assert report.tables[0].unchanged == len(values)
