"""Files as spreadsheets in other languages write them."""

from datetime import date, datetime, timezone
from decimal import Decimal

import pytest
from models import Sample
from transfers import accessor, export, load, registered

import vstorage_csv.plugin
from vstorage_core import ImportRefused, InvalidInput

AT = datetime(2026, 1, 31, 20, 5, tzinfo=timezone.utc)


@pytest.fixture
def sqlite_storage(make_database, open_storage):
    return registered(open_storage(make_database("sqlite"), plugins=[vstorage_csv.plugin]))


def sample(storage, columns, cells, **options):
    """The sample that a file with one row makes."""
    load(storage, f"id;{columns}\n1;{cells}\n", tables=["sample"], **options)
    return accessor(storage, Sample).get(1)


def test_a_german_excel_file_is_read(sqlite_storage):
    found = sample(
        sqlite_storage,
        "ratio;price;flag;day;moment",
        "-0,5;1234,50;WAHR;31.01.2026;31.01.2026 20:05",
        decimal_comma=True,
        dates="dmy",
    )
    assert (found.ratio, found.price, found.flag) == (-0.5, Decimal("1234.50"), True)
    assert (found.day, found.moment) == (date(2026, 1, 31), AT)


@pytest.mark.parametrize(
    ("dates", "text"),
    [
        ("mdy", "1/31/2026 8:05 PM"),
        ("mdy", "01/31/2026 20:05:00"),
        ("dmy", "31/01/2026 20:05"),
        ("dmy", "31-1-2026 20:05"),
        ("dmy", "2026-01-31 20:05"),
        ("iso", "2026-01-31 20:05:00"),
        ("iso", "2026-01-31T21:05:00+01:00"),
    ],
)
def test_a_time_is_read_as_the_spreadsheet_writes_it(sqlite_storage, dates, text):
    assert sample(sqlite_storage, "moment", text, dates=dates).moment == AT


def test_midday_and_midnight_are_twelve(sqlite_storage):
    for text, hour in (("1/31/2026 12:00 AM", 0), ("1/31/2026 12:00 PM", 12), ("1/31/2026", 0)):
        assert sample(sqlite_storage, "moment", text, dates="mdy").moment == AT.replace(hour=hour, minute=0)


@pytest.mark.parametrize(("true", "false"), [("TRUE", "FALSE"), ("Wahr", "falsch"), ("VRAI", "FAUX"), ("1", "0")])
def test_true_and_false_are_known_by_their_names(sqlite_storage, true, false):
    assert sample(sqlite_storage, "flag", true).flag is True
    assert sample(sqlite_storage, "flag", false).flag is False


def test_a_file_for_a_european_spreadsheet_reads_back(sqlite_storage):
    accessor(sqlite_storage, Sample).insert(
        Sample(id=1, ratio=-1.5, price=Decimal("-0.01"), moment=AT, text="=1,5", number=-7, flag=True)
    )
    options = {"dialect": "spreadsheet", "delimiter": ";", "decimal_comma": True}
    text = export(sqlite_storage, table="sample", **options).read().decode()
    assert text.splitlines()[1].startswith('1;"\'=1,5";-7;-1,5;TRUE;-0,01;2026-01-31 20:05:00;')
    report = load(sqlite_storage, text, tables=["sample"], decimal_comma=True, dry_run=True)
    assert report.tables[0].unchanged == 1
    # In a zip the manifest tells.
    report = sqlite_storage.import_("csv", export(sqlite_storage, tables=["sample"], **options), dry_run=True)
    assert report.tables[0].unchanged == 1


def test_a_decimal_comma_between_commas_is_quoted(sqlite_storage):
    accessor(sqlite_storage, Sample).insert(Sample(id=1, ratio=-1.5))
    options = {"dialect": "spreadsheet", "decimal_comma": True}
    text = export(sqlite_storage, table="sample", **options).read().decode()
    assert ',"-1,5",' in text
    assert load(sqlite_storage, text, tables=["sample"], decimal_comma=True, dry_run=True).tables[0].unchanged == 1


@pytest.mark.parametrize(
    ("column", "text", "options", "sentence"),
    [
        ("ratio", "1,5", {}, "is not a number; if the comma is a decimal comma, say decimal_comma=true"),
        ("price", "1,5", {}, "is not a decimal number; if the comma is a decimal comma, say decimal_comma=true"),
        ("ratio", "1.234,5", {"decimal_comma": True}, "expects a comma and no thousands separators"),
        ("ratio", "1,234.5", {}, "is not a number"),
        (
            "number",
            "1,23E+11",
            {},
            "is not a whole number: a spreadsheet has shortened it; show the column as a number",
        ),
        ("day", "01.02.2026", {}, "may begin with the day or the month; say dates=dmy or dates=mdy"),
        ("day", "31.01.26", {"dates": "dmy"}, "is not a date such as 2026-01-31"),
        ("day", "31.01.2026", {"dates": "mdy"}, "is not a date such as 1/31/2026"),
        ("day", "31.01.2026 08:00", {"dates": "dmy"}, "is not a date such as 31.01.2026"),
        ("moment", "31.01.2026 25:00", {"dates": "dmy"}, "is not a date and time such as 31.01.2026"),
        ("moment", "1/31/2026 0:30 PM", {"dates": "mdy"}, "is not a date and time such as 1/31/2026"),
        ("flag", "yes", {}, "is neither true nor false"),
    ],
)
def test_what_may_mean_two_things_is_refused_with_the_way_out(sqlite_storage, column, text, options, sentence):
    with pytest.raises(ImportRefused) as caught:
        sample(sqlite_storage, column, text, **options)
    [problem] = caught.value.details
    assert (problem["column"], problem["value"]) == (column, text)
    assert sentence in problem["reason"]


@pytest.mark.parametrize("options", [{"delimiter": ";"}, {"decimal_comma": True}])
def test_an_exact_file_has_one_form(sqlite_storage, options):
    with pytest.raises(InvalidInput, match="delimiter and decimal_comma are for dialect=spreadsheet"):
        export(sqlite_storage, **options)
