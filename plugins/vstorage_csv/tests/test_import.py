"""The import, as a field engineer sees it who puts edited files back."""

import csv
import io
import json
from datetime import datetime, timezone

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from models import Color, Counter, Sample, Team, User
from transfers import accessor, content, counts, export, fill, load, registered, trail

import vstorage_csv.plugin
import vstorage_rest.plugin
import vstorage_transfer.plugin
from vstorage_core import (
    ImportRefused,
    ModelAccessor,
    bootstrap,
    hookimpl,
    use_default_storage,
)


@pytest.fixture
def open_csv(open_storage):
    def open_(url, *plugins):
        return registered(open_storage(url, plugins=[vstorage_csv.plugin, vstorage_transfer.plugin, *plugins]))

    return open_


@pytest.fixture
def storage(database_url, open_csv):
    return open_csv(database_url)


@pytest.fixture
def sqlite_storage(make_database, open_csv):
    return open_csv(make_database("sqlite"))


def test_a_zip_fills_an_empty_database_and_each_row_is_audited_under_one_batch(storage, open_csv, make_database):
    source = open_csv(make_database("sqlite"))
    fill(source)
    report = storage.import_("csv", export(source), actor="ana")
    assert [entry.table for entry in report.tables if entry.create] == ["device", "team", "users", "member"]
    assert report.skipped["auditlog.csv"] == "the audit trail is never imported"
    before, after = content(source), content(storage)
    del before["auditlog.csv"], after["auditlog.csv"]
    assert after == before
    rows = trail(storage)
    assert [(row.component, row.operation) for row in rows] == [
        (component, "create") for component in ("device-c", "team-c", "users-c", "users-c", "member-c")
    ]
    assert {row.batch for row in rows} == {report.batch}
    assert {row.actor for row in rows} == {"ana"}


def test_new_records_get_new_keys_after_an_import_with_keys(storage):
    load(storage, "id,value\n1,10\n2,20\n7,70\n")
    assert accessor(storage, Counter).insert(Counter(value=80)).id == 8


def test_importing_what_is_there_already_changes_nothing(storage):
    fill(storage)
    before = content(storage)
    for dialect in ("exact", "spreadsheet"):
        report = storage.import_("csv", export(storage, dialect=dialect))
        assert counts(report, "users") == {
            "create": 0, "update": 0, "unchanged": 2, "delete": 0, "bad": 0
        }  # fmt: skip
        assert content(storage) == before


def test_the_file_of_a_spreadsheet_reads_back_as_it_was(sqlite_storage, open_csv, make_database):
    fill(sqlite_storage)
    accessor(sqlite_storage, Sample).insert(
        Sample(
            text="",
            flag=True,
            raw=b"+\xff",
            settings={"a": [1, None]},
            moment=datetime(2026, 1, 2, tzinfo=timezone.utc),
        )
    )
    target = open_csv(make_database("sqlite"))
    target.import_("csv", export(sqlite_storage, dialect="spreadsheet", delimiter=";"))
    before, after = content(sqlite_storage), content(target)
    del before["auditlog.csv"], after["auditlog.csv"]
    assert after == before


def test_a_file_that_excel_saved_again_is_understood(sqlite_storage):
    # No quotes, semicolons, TRUE, no zone, an empty line at the end, a byte order mark.
    text = "\ufeffid;text;flag;moment;color;raw\r\n1;;TRUE;2026-01-31 08:30:00;BLUE;\r\n;;;;;\r\n"
    load(sqlite_storage, text, tables=["sample"])
    sample = accessor(sqlite_storage, Sample).get(1)
    assert (sample.text, sample.flag, sample.color, sample.raw) == ("", True, Color.BLUE, None)
    assert sample.moment == datetime(2026, 1, 31, 8, 30, tzinfo=timezone.utc)


# Bad rows

BAD = """id,name,email,age
1,Ana,ana@example.com,old
2,Ben,no address,-1
3,Cid,cid@example.com,3
4,Dee,cid@example.com,4
5,Eve,eve@example.com,5,6
"6"x,Fay,fay@example.com,6
"""


def test_every_bad_cell_is_named_and_nothing_is_stored(storage):
    before = content(storage)
    with pytest.raises(
        ImportRefused, match=r"nothing was imported because of 5 bad rows, the first: .* line 2: age 'old'"
    ) as caught:
        load(storage, BAD)
    found = [(d["line"], d["column"], d["value"], d["reason"]) for d in caught.value.details]
    assert found == [
        (2, "age", "old", "is not a whole number"),
        (3, "email", "no address", "an address has an @"),
        (3, "age", "-1", "Input should be greater than or equal to 0"),
        (5, "email", "cid@example.com", "is taken by another record"),
        (6, None, None, "has 5 cells where the header has 4"),
        (7, None, None, "cell 1 goes on after its closing quote"),
    ]
    assert content(storage) == before


def test_the_good_rows_are_stored_on_request(sqlite_storage):
    report = load(sqlite_storage, BAD, on_error="skip")
    assert counts(report, "users")["create"] == 1
    assert counts(report, "users")["bad"] == 5
    assert [user.name for user in accessor(sqlite_storage, User).all()] == ["Cid"]
    assert [row.record_id for row in trail(sqlite_storage)] == [3]


def test_a_dry_run_tells_what_would_happen_and_does_nothing(storage):
    fill(storage)
    before = content(storage)
    told = []
    accessor(storage, User).after_commit()(told.append)
    report = load(storage, BAD.replace("1,Ana,ana@example.com,old", "1,Ana,ana@example.com,31"), dry_run=True)
    assert report.batch is None
    assert counts(report, "users") == {
        "create": 1, "update": 1, "unchanged": 0, "delete": 0, "bad": 4
    }  # fmt: skip
    assert content(storage) == before
    assert told == []


def test_errors_file_holds_the_bad_rows_and_completes_the_data_when_they_are_repaired(sqlite_storage):
    lines = ["id,name,email,age"]
    bad = set(range(17, 1000, 50))
    for number in range(1, 1021):
        lines.append(f'{number},"User\n{number}",u{number}@example.com,{"x" if number in bad else number % 90}')
    report = load(sqlite_storage, "\n".join(lines), on_error="skip")
    assert len(bad) == 20
    assert counts(report, "users")["bad"] == 20
    assert counts(report, "users")["create"] == 1000
    errors = report.tables[0].errors_file
    header, *rows = csv.reader(io.StringIO(errors.removeprefix("\ufeff"), newline=""))
    assert header == ["#line", "#column", "#reason", "id", "name", "email", "age"]
    # Each row has two lines, as its name has.
    assert [(row[0], row[1], row[3]) for row in rows] == [(f"{2 * n}", "age", f"{n}") for n in sorted(bad)]
    assert {row[2] for row in rows} == {"age: is not a whole number"}
    report = load(sqlite_storage, errors.replace(",x\r\n", ",7\r\n"))
    assert counts(report, "users")["create"] == 20
    assert accessor(sqlite_storage, User).count() == 1020


def test_more_bad_rows_than_anybody_reads_end_the_import(sqlite_storage):
    text = "id,value\n" + "".join(f"{n},x\n" for n in range(10_002))
    with pytest.raises(ImportRefused, match="more than 10,000 rows are bad, nothing was imported"):
        load(sqlite_storage, text, on_error="skip")


def test_a_hook_may_refuse_a_row(make_database, open_csv):
    class Guard:
        @hookimpl
        def vstorage_before_insert(self, instance):
            if instance.name == "Mallory":
                raise PermissionError("Mallory may not come in")

    storage = open_csv(make_database("sqlite"), Guard())
    report = load(storage, "id,name\n1,Ana\n2,Mallory\n3,Cid\n", tables=["team"], on_error="skip")
    assert [team.name for team in accessor(storage, Team).all()] == ["Ana", "Cid"]
    assert [str(problem) for problem in report.problems] == ["the file line 3: Mallory may not come in"]


def test_a_hook_that_fails_ends_the_import(make_database, open_csv):
    class Broken:
        @hookimpl
        def vstorage_after_insert(self, instance):
            raise KeyError("a bug")

    storage = open_csv(make_database("sqlite"), Broken())
    with pytest.raises(KeyError, match="a bug"):
        load(storage, "id,value\n1,1\n", on_error="skip")
    assert accessor(storage, Counter).count() == 0


def test_hooks_see_the_actor_and_commit_listeners_hear_of_every_row_once(sqlite_storage):
    actors, heard = [], []
    counters = accessor(sqlite_storage, Counter)
    counters.before_insert()(lambda actor: actors.append(actor))
    counters.after_commit()(heard.extend)
    load(sqlite_storage, "id,value\n1,1\n2,2\n", actor="ana")
    assert actors == ["ana", "ana"]
    assert [(change.record_id, change.operation) for change in heard] == [(1, "create"), (2, "create")]


# Which table


def test_the_table_of_a_csv_file_is_its_name_or_the_only_one_that_it_fits(sqlite_storage, tmp_path):
    path = tmp_path / "counter.csv"
    path.write_text("id\n1\n")
    assert sqlite_storage.import_("csv", path).tables[0].table == "counter"
    assert load(sqlite_storage, "id,value\n2,3\n").tables[0].table == "counter"
    with pytest.raises(ImportRefused, match=r"fits each of .*counter.*; name its table with the option tables"):
        load(sqlite_storage, "id\n1\n")
    with pytest.raises(ImportRefused, match="fits no table"):
        load(sqlite_storage, "nothing\n1\n")


def test_only_the_tables_that_were_asked_for_are_imported(sqlite_storage, open_csv, make_database):
    fill(sqlite_storage)
    target = open_csv(make_database("sqlite"))
    report = target.import_("csv", export(sqlite_storage), tables=["team"])
    assert [entry.table for entry in report.tables] == ["team"]
    assert report.skipped["users.csv"] == "not among the tables that were asked for"
    assert accessor(target, User).count() == 0


def test_an_accessor_without_a_storage_writes_into_the_one_that_imports(make_database, open_storage):
    counters = ModelAccessor(Counter, "counters")
    first, second = (open_storage(make_database("sqlite"), plugins=[vstorage_csv.plugin]) for _ in range(2))
    with use_default_storage(first):
        counters.count()
    with use_default_storage(second):
        first.import_("csv", io.BytesIO(b"id,value\n1,5\n"))
        assert counters.count() == 0
    with use_default_storage(first):
        assert counters.get(1).value == 5


def test_a_row_joins_the_transaction_that_is_open(sqlite_storage):
    with sqlite_storage.transaction() as session:
        load(sqlite_storage, "id,value\n1,5\n")
        assert accessor(sqlite_storage, Counter).count() == 1
        session.rollback()
    assert accessor(sqlite_storage, Counter).count() == 0


def test_progress_is_told_with_the_total_where_a_manifest_tells_it(sqlite_storage, open_csv, make_database):
    accessor(sqlite_storage, Counter).insert_many([Counter() for _ in range(1200)])
    archive = export(sqlite_storage)
    reports = []
    open_csv(make_database("sqlite")).import_("csv", archive, tables=["counter"], progress=reports.append)
    assert [(report.label, report.done, report.total) for report in reports] == [
        ("counter", done, 1200) for done in (0, 500, 1000, 1200)
    ]


def test_the_report_is_json(sqlite_storage):
    report = load(sqlite_storage, BAD, dry_run=True)
    assert json.loads(report.model_dump_json())["problems"][0] == {
        "file": "the file", "line": 2, "column": "age", "value": "old", "reason": "is not a whole number"
    }  # fmt: skip


def test_it_is_served_over_http(make_database, open_storage):
    storage = open_storage(
        make_database("sqlite"), plugins=[vstorage_csv.plugin, vstorage_transfer.plugin, vstorage_rest.plugin]
    )
    app = FastAPI()
    bootstrap(app, accessors=[ModelAccessor(Counter, "counters", storage=storage)], storage=storage)
    client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000), headers={"X-User": "ana"})

    def post(path, data, **params):
        return client.post(path, files={"file": ("counter.csv", data)}, params=params)

    answer = post("/db/import", b"id,value\n1,x\n2,20\n", dry_run=True)
    assert answer.json()["tables"][0]["create"] == answer.json()["tables"][0]["bad"] == 1
    answer = post("/db/import", b"id,value\n1,x\n")
    assert answer.status_code == 422
    assert answer.json()["detail"][1]["line"] == 2
    report = post("/db/import", b"id,value\n1,10\n")
    assert accessor(storage, Counter).get(1).value == 10
    assert [(row.actor, row.batch) for row in trail(storage)] == [("ana", report.json()["batch"])]
    assert post("/db/import-undo", report.content).json()["changes"] == {"counters": 1}
    assert accessor(storage, Counter).count() == 0
