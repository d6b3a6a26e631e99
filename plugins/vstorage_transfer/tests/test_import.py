"""What an import does with the rows of a file, whatever its format; here of CSV files."""

import pytest
from models import Counter, Member, Team, User
from transfers import accessor, counts, fill, load, open_local, packed, registered, trail

import vstorage_csv.plugin
import vstorage_transfer.plugin
from vstorage_core import (
    ImportRefused,
    InvalidInput,
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


# Modes


def test_insert_refuses_a_key_that_is_taken(sqlite_storage):
    load(sqlite_storage, "id,value\n1,10\n")
    with pytest.raises(ImportRefused, match=r"the file line 3: id '1': is taken by another record") as caught:
        load(sqlite_storage, "id,value\n2,20\n1,11\n", mode="insert")
    assert caught.value.details == [
        {"file": "the file", "line": 3, "column": "id", "value": "1", "reason": "is taken by another record"}
    ]
    assert [counter.value for counter in accessor(sqlite_storage, Counter).all()] == [10]


def test_insert_without_keys_lets_the_database_make_them(sqlite_storage):
    report = load(sqlite_storage, "value\n10\n20\n", tables=["counter"], mode="insert")
    assert counts(report, "counter")["create"] == 2
    assert [(counter.id, counter.value) for counter in accessor(sqlite_storage, Counter).all()] == [(1, 10), (2, 20)]


def test_upsert_updates_what_differs_and_creates_what_is_new(storage):
    fill(storage)
    report = load(
        storage, "id,name,email,age\n1,Ana,ana@example.com,31\n2,Ben,ben@example.com,\n,Cid,cid@example.com,5\n"
    )
    assert counts(report, "users") == {
        "create": 1, "update": 1, "unchanged": 1, "delete": 0, "bad": 0
    }  # fmt: skip
    assert [difference.model_dump() for difference in report.tables[0].differences] == [
        {"line": 2, "key": 1, "column": "age", "before": 30, "after": 31}
    ]
    assert [(user.name, user.age) for user in accessor(storage, User).all()] == [("Ana", 31), ("Cid", 5)]
    assert [(row.operation, row.record_id) for row in trail(storage, batch=report.batch)] == [
        ("update", 1),
        ("create", 3),
    ]


def test_columns_that_a_file_leaves_out_keep_their_values(sqlite_storage):
    fill(sqlite_storage)
    load(sqlite_storage, "email,id,name\nana@example.com,1,Anna\n")
    user = accessor(sqlite_storage, User).get(1)
    assert (user.name, user.age) == ("Anna", 30)


def test_a_later_row_of_the_same_key_wins(sqlite_storage):
    report = load(sqlite_storage, "id,value\n1,10\n1,11\n2,20\n1,12\n")
    assert counts(report, "counter") == {
        "create": 2, "update": 2, "unchanged": 0, "delete": 0, "bad": 0
    }  # fmt: skip
    assert [counter.value for counter in accessor(sqlite_storage, Counter).all()] == [12, 20]


def test_replace_deletes_what_is_not_in_the_file_children_first(storage):
    fill(storage)
    accessor(storage, User).insert(User(id=3, name="Cid", email="cid@example.com"))
    report = storage.import_(
        "csv",
        packed({
            "users.csv": "id,name,email\n3,Cid,cid@example.com\n4,Eve,eve@example.com\n",
            "team.csv": "id,name\n2,blue\n",
            "member.csv": "id,name,team_id\n",
        }),
        mode="replace",
    )  # fmt: skip
    assert counts(report, "team")["delete"] == counts(report, "member")["delete"] == 1
    assert [team.name for team in accessor(storage, Team).all()] == ["blue"]
    assert accessor(storage, Member).all() == []
    assert accessor(storage, Counter).all() == []


def test_replace_makes_room_for_a_new_record_with_the_unique_value_of_a_deleted_one(sqlite_storage):
    open_local(sqlite_storage)
    load(sqlite_storage, "id,place\n1,left\n2,right\n", tables=["slot"])
    report = load(sqlite_storage, "id,place\n3,left\n2,right\n", tables=["slot"], mode="replace")
    assert counts(report, "slot") == {
        "create": 1, "update": 0, "unchanged": 1, "delete": 1, "bad": 0
    }  # fmt: skip


def test_replace_with_skipped_rows_is_refused(sqlite_storage):
    with pytest.raises(InvalidInput, match="cannot skip bad rows"):
        load(sqlite_storage, "id,value\n1,1\n", mode="replace", on_error="skip")


def test_emptying_deleted_at_restores_a_record_and_filling_it_deletes_one(sqlite_storage):
    fill(sqlite_storage)
    report = load(
        sqlite_storage,
        "id,name,email,age,deleted_at\n1,Ana,ana@example.com,30,2026-01-01 00:00:00\n2,Benny,ben@example.com,,\n",
    )
    assert counts(report, "users")["update"] == 2
    assert [user.name for user in accessor(sqlite_storage, User).all()] == ["Benny"]
    assert [row.operation for row in trail(sqlite_storage, batch=report.batch)] == ["soft_delete", "restore", "update"]


def test_a_deleted_record_is_not_changed_behind_its_back(sqlite_storage):
    fill(sqlite_storage)
    with pytest.raises(ImportRefused, match="the record is deleted; empty deleted_at to restore it"):
        load(sqlite_storage, "id,name,email\n2,Benny,ben@example.com\n")


# References


def test_a_child_may_stand_before_its_parent(storage):
    open_local(storage)
    chain = "".join(f"{n},{n + 1}\n" for n in range(1, 50))
    report = load(storage, f"id,parent_id\n{chain}50,\n51,1\n", tables=["node"])
    assert counts(report, "node")["create"] == 51


def test_a_reference_to_nothing_is_a_bad_row(sqlite_storage):
    with pytest.raises(ImportRefused, match=r"line 2: .*points to a record that does not exist"):
        load(sqlite_storage, "id,name,team_id\n1,Mo,9\n", tables=["member"])


def test_two_records_may_pass_a_unique_value_on(sqlite_storage):
    fill(sqlite_storage)
    accessor(sqlite_storage, User).insert(User(id=3, name="Cid", email="cid@example.com"))
    load(sqlite_storage, "id,name,email\n1,Ana,cid@example.com\n3,Cid,new@example.com\n")
    assert [user.email for user in accessor(sqlite_storage, User).all()] == ["cid@example.com", "new@example.com"]


def test_a_record_without_its_key_is_a_bad_row(sqlite_storage):
    with pytest.raises(ImportRefused, match="line 2: serial is empty: Field required"):
        load(sqlite_storage, "serial,label\n,x\n")
