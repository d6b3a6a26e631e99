"""What the database refuses, and how little of it a stranger learns."""

from __future__ import annotations

import re
import sqlite3
import traceback
from typing import Any

import pytest
from models import Counter, Device, Member, Team, User
from sqlalchemy import CheckConstraint, UniqueConstraint, delete, insert
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from vstorage_core import ConstraintViolation, InvalidInput, ModelAccessor, Storage, StorageError


class Own(SQLModel, registry=registry()):
    """Base of models that other tests do not get tables of."""


class Slot(Own, table=True):
    __table_args__ = (
        UniqueConstraint("shelf", "place", name="one_thing_per_place"),
        CheckConstraint("place > 0", name="places_start_at_one"),
    )

    id: int | None = Field(default=None, primary_key=True)
    shelf: int
    place: int


def accessor_of(storage: Storage, model: type[Any] = Counter) -> ModelAccessor[Any]:
    return ModelAccessor(model, model.__name__.lower() + "s", storage=storage)


def strangers_view(error: BaseException) -> str:
    return f"{error} {error!r} {error.args}"


@pytest.fixture
def slots(storage: Storage) -> ModelAccessor[Slot]:
    slots = accessor_of(storage, Slot)
    assert slots.storage is storage
    storage.create_tables()
    return slots


def test_a_taken_value_is_told_by_its_field(storage):
    users = accessor_of(storage, User)
    users.insert(User(name="Ana", email="secret@example.com"))
    with pytest.raises(ConstraintViolation) as caught:
        users.insert(User(name="Ben", email="secret@example.com"))
    assert (caught.value.kind, caught.value.fields) == ("unique", ["email"])
    assert str(caught.value) == "email is taken by another record"


def test_a_taken_key_is_told_by_its_field(storage):
    devices = accessor_of(storage, Device)
    devices.insert(Device(serial="A1"))
    with pytest.raises(ConstraintViolation) as caught:
        devices.insert(Device(serial="A1"))
    assert (caught.value.kind, caught.value.fields) == ("unique", ["serial"])


def test_a_taken_combination_is_told_by_its_fields(slots):
    slots.insert(Slot(shelf=1, place=1))
    with pytest.raises(ConstraintViolation) as caught:
        slots.insert(Slot(shelf=1, place=1))
    assert (caught.value.kind, caught.value.fields) == ("unique", ["shelf", "place"])


def test_a_reference_to_nothing_is_refused(storage):
    members = accessor_of(storage, Member)
    with pytest.raises(ConstraintViolation) as caught:
        members.insert(Member(name="m", team_id=99))
    assert caught.value.kind == "foreign_key"
    assert caught.value.fields in (["team_id"], [])  # SQLite does not tell it


def test_a_record_that_others_refer_to_is_not_deleted(storage):
    team = accessor_of(storage, Team).insert(Team(name="red"))
    accessor_of(storage, Member).insert(Member(name="m", team_id=team.id))
    with pytest.raises(ConstraintViolation) as caught, storage.transaction() as session:
        session.execute(delete(Team))
    assert caught.value.kind == "foreign_key"
    assert accessor_of(storage, Team).count() == 1


def test_a_missing_value_is_told_by_its_field(storage):
    with pytest.raises(ConstraintViolation) as caught, storage.transaction() as session:
        session.execute(insert(User).values(email="a@example.com"))
    assert (caught.value.kind, caught.value.fields) == ("not_null", ["name"])
    assert str(caught.value) == "name is required"


def test_a_broken_rule_of_the_table_is_told(slots):
    with pytest.raises(ConstraintViolation) as caught:
        slots.insert(Slot(shelf=1, place=0))
    assert caught.value.kind == "check"
    assert str(caught.value) == "the table's rule places_start_at_one refuses the values"


def test_no_refusal_shows_sql_or_values(storage, slots):
    users = accessor_of(storage, User)
    users.insert(User(name="Ana", email="topsecret@example.com"))
    slots.insert(Slot(shelf=424242, place=1))
    refusals = []
    for write in (
        lambda: users.insert(User(name="Ben", email="topsecret@example.com")),
        lambda: slots.insert(Slot(shelf=424242, place=1)),
        lambda: slots.insert(Slot(shelf=424242, place=-1)),
        lambda: accessor_of(storage, Member).insert(Member(name="topsecret", team_id=424242)),
        lambda: users.update(1, name="topsecret" * 10),
    ):
        with pytest.raises(StorageError) as caught:
            write()
        refusals.append(strangers_view(caught.value))
    for refusal in refusals:
        assert not re.search(r"topsecret|424242|INSERT|UPDATE|SELECT|\[SQL|sqlite3|psycopg|pymysql", refusal), refusal


def test_the_drivers_own_words_stay_in_the_traceback_for_the_log(sqlite_storage):
    devices = accessor_of(sqlite_storage, Device)
    devices.insert(Device(serial="A1"))
    with pytest.raises(ConstraintViolation) as caught:
        devices.insert(Device(serial="A1"))
    assert isinstance(caught.value.orig, sqlite3.IntegrityError)
    assert "UNIQUE constraint failed: device.serial" in "".join(traceback.format_exception(caught.value))


def test_a_value_that_does_not_fit_is_refused_as_input(storage):
    with pytest.raises(InvalidInput), storage.transaction() as session:
        session.execute(insert(Counter).values(value=2**70))
    assert accessor_of(storage).count() == 0
