"""Imports that are taken back."""

import io
from datetime import datetime

import pytest
from models import Color, Counter, Member, Sample, Team, User
from transfers import Node, accessor, content, fill, load, open_local, packed, registered, trail

import vstorage_csv.plugin
import vstorage_transfer.plugin
from vstorage_core import (
    ImportRefused,
    acting_as,
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


def test_an_import_can_be_undone_by_its_report(storage):
    fill(storage)
    before = content(storage)
    report = load(
        storage,
        "id,name,email,age,deleted_at\n1,Anna,ana@example.com,31,\n2,Benny,ben@example.com,,\n",
        actor="ana",
    )
    undone = storage.import_("undo", io.BytesIO(report.model_dump_json().encode()), actor="ben")
    assert undone.changes == {"users-c": 3}
    after = content(storage)
    # The moment of the deletion is that of the undoing.
    assert [line.split(",")[:4] for line in after["users.csv"].splitlines()] == [
        line.split(",")[:4] for line in before["users.csv"].splitlines()
    ]
    assert [user.name for user in accessor(storage, User).all()] == ["Ana"]
    assert {row.actor for row in trail(storage, batch=undone.batch)} == {"ben"}


def test_undoing_deletes_what_was_created_and_brings_back_what_was_deleted(storage):
    load(storage, "id,value\n1,10\n2,20\n")
    fill(storage)
    report = storage.import_(
        "csv",
        packed({"counter.csv": "id,value\n2,21\n3,30\n", "team.csv": "id,name\n2,blue\n", "member.csv": "id,name\n"}),
        mode="replace",
    )
    storage.import_("undo", io.BytesIO(report.batch.encode()))
    assert [(counter.id, counter.value) for counter in accessor(storage, Counter).all()] == [(1, 10), (2, 20)]
    assert [(team.id, team.name) for team in accessor(storage, Team).all()] == [(1, "red")]
    assert [(member.id, member.team_id) for member in accessor(storage, Member).all()] == [(1, 1)]


def test_every_column_type_survives_undoing(storage):
    samples = accessor(storage, Sample)
    samples.insert(Sample(id=1, raw=b"\xff", settings={"a": 1}, color=Color.BLUE, day=datetime(2026, 1, 1).date()))  # noqa: DTZ001
    before = content(storage)["sample.csv"]
    report = load(storage, "id\n", tables=["sample"], mode="replace")
    assert samples.count() == 0
    storage.import_("undo", io.BytesIO(report.batch.encode()))
    assert content(storage)["sample.csv"] == before


def test_undoing_can_be_undone(sqlite_storage):
    report = load(sqlite_storage, "id,value\n1,10\n")
    undone = sqlite_storage.import_("undo", io.BytesIO(report.batch.encode()))
    assert accessor(sqlite_storage, Counter).count() == 0
    sqlite_storage.import_("undo", io.BytesIO(undone.batch.encode()))
    assert accessor(sqlite_storage, Counter).get(1).value == 10


def test_what_was_changed_since_is_a_conflict_and_nothing_is_undone(sqlite_storage):
    report = load(sqlite_storage, "id,value\n1,10\n2,20\n")
    accessor(sqlite_storage, Counter).update(1, value=11, actor="ben")
    before = content(sqlite_storage)
    with pytest.raises(
        ImportRefused, match=r"1 conflicts?, the first: counter-c 1: was changed since: update by ben"
    ) as caught:
        sqlite_storage.import_("undo", io.BytesIO(report.batch.encode()))
    assert [(d["component"], d["record_id"]) for d in caught.value.details] == [("counter-c", 1)]
    assert content(sqlite_storage) == before


def test_a_record_that_is_in_use_by_now_is_a_conflict(storage):
    open_local(storage)
    report = load(storage, "id,parent_id\n1,\n2,\n", tables=["node"])
    accessor(storage, Node).insert(Node(parent_id=2))
    with pytest.raises(ImportRefused, match=r"node 2: .*another record refers to it"):
        storage.import_("undo", io.BytesIO(report.batch.encode()))
    assert accessor(storage, Node).count() == 3


def test_undoing_has_a_dry_run(sqlite_storage):
    report = load(sqlite_storage, "id,value\n1,10\n")
    undone = sqlite_storage.import_("undo", io.BytesIO(report.batch.encode()), dry_run=True)
    assert undone.changes == {"counter-c": 1}
    assert accessor(sqlite_storage, Counter).count() == 1


@pytest.mark.parametrize("text", ["", "{}", '{"batch": null}', "{", "\0", "x" * 300])
def test_what_names_no_batch_is_refused(sqlite_storage, text):
    with pytest.raises(ImportRefused, match="give the report of the import, or the batch"):
        sqlite_storage.import_("undo", io.BytesIO(text.encode()))


def test_an_unknown_batch_is_refused(sqlite_storage):
    with acting_as("ana", batch="mine"):
        accessor(sqlite_storage, Counter).insert(Counter())
    with pytest.raises(ImportRefused, match="the audit trail has no such import"):
        sqlite_storage.import_("undo", io.BytesIO(b"other"))
