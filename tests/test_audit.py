"""The audit trail: who, when, what was before and after, and how it is asked."""

from __future__ import annotations

import json
import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest
from models import Color, Counter, Device, Sample, Ticket, User
from sqlalchemy import text
from sqlmodel import col, select
from trail import history, trail

from vstorage_core import AuditLog, InvalidInput, ModelAccessor, Storage, acting_as


@pytest.fixture
def counters(storage: Storage) -> ModelAccessor[Counter]:
    return ModelAccessor(Counter, "counters", storage=storage)


@pytest.fixture
def samples(storage: Storage) -> ModelAccessor[Sample]:
    return ModelAccessor(Sample, "samples", storage=storage)


# Who


def test_a_call_names_the_actor_and_the_block_names_it_else(storage, counters):
    counters.insert(Counter())
    with acting_as("ana"):
        counters.insert(Counter())
        counters.insert(Counter(), actor="ben")
        with acting_as("cleo"):
            counters.insert(Counter())
        counters.insert(Counter())
    assert [row.actor for row in trail(storage)] == ["internal", "ana", "ben", "cleo", "ana"]


def test_what_is_known_about_the_actor_stands_in_every_row(storage, counters):
    known = {
        "batch": "import 7",
        "reason": "shift change",
        "actor_source": "header",
        "remote_address": "2001:db8::1",
        "request_id": "r-1",
    }
    with acting_as("ana", **known):
        counter = counters.insert(Counter())
        with acting_as(reason="correction"):
            counters.update(counter.id, value=1)
    counters.delete(counter.id)
    first, second, third = trail(storage)
    assert {name: getattr(first, name) for name in known} == known
    assert {name: getattr(second, name) for name in known} == {**known, "reason": "correction"}
    assert second.actor == "ana"
    assert {name: getattr(third, name) for name in known} == dict.fromkeys(known)


@pytest.mark.parametrize("actor", ["", " ", "\t", "x" * 256, "ana\nben", "ana\0", "\u202eana", 7, b"ana"])
def test_an_actor_that_nobody_can_be_is_refused(sqlite_storage, actor):
    counters = ModelAccessor(Counter, "counters", storage=sqlite_storage)
    with pytest.raises(InvalidInput, match="the actor must be 1 to 255 printable characters"):
        counters.insert(Counter(), actor=actor)
    with pytest.raises(InvalidInput), acting_as(actor):
        pass
    assert counters.count() == 0


@pytest.mark.parametrize("actor", ["x", "x" * 255, "Ana Müller", "操作员", "ana@line-3"])
def test_an_actor_may_be_any_printable_name(storage, actor):
    ModelAccessor(Counter, "counters", storage=storage).insert(Counter(), actor=actor)
    assert trail(storage)[0].actor == actor


def test_a_detail_that_no_column_keeps_is_refused():
    with pytest.raises(TypeError, match="shift"), acting_as("ana", shift="night"):
        pass


# When


def test_timestamps_are_aware_and_utc_on_every_engine(storage, counters):
    started = datetime.now(timezone.utc)
    counters.insert(Counter())
    [row] = trail(storage)
    assert row.timestamp.utcoffset() == timedelta(0)
    assert started <= row.timestamp <= datetime.now(timezone.utc)


def test_all_rows_of_a_call_have_one_timestamp_and_later_calls_a_later_one(storage, counters):
    counters.insert_many([Counter(), Counter()])
    counters.insert(Counter())
    first, second, third = (row.timestamp for row in trail(storage))
    assert first == second <= third


def test_since_and_until_compare_instants_in_whatever_time_zone_they_are_given(storage, counters):
    counters.insert(Counter())
    [row] = trail(storage)
    in_montreal = row.timestamp.astimezone(timezone(timedelta(hours=-5)))
    with storage.use_session() as session:
        for bound, found in ((in_montreal, 1), (in_montreal + timedelta(seconds=1), 0)):
            assert len(session.exec(select(AuditLog).where(col(AuditLog.timestamp) >= bound)).all()) == found


# What


@pytest.mark.parametrize(
    ("model", "key", "spellings"),
    [
        (Counter, 7, [7, "7"]),
        (Device, "0042", ["0042"]),
        (Ticket, uuid.UUID(int=9), [uuid.UUID(int=9), str(uuid.UUID(int=9))]),
    ],
)
def test_a_record_is_found_by_its_key_in_every_spelling(storage, model, key, spellings):
    accessor: Any = ModelAccessor(model, "things", storage=storage)
    title = {"title": "t"} if model is Ticket else {}
    accessor.insert(model(**{accessor.record.key: key}, **title))
    with storage.use_session() as session:
        for spelling in spellings:
            [row] = session.exec(select(AuditLog).where(AuditLog.record_id == spelling)).all()
            [same] = session.exec(select(AuditLog).where(col(AuditLog.record_id).in_([spelling, "none"]))).all()
            assert same is row
    assert row.record_id == (str(key) if model is Ticket else key)


def test_a_text_key_that_looks_like_a_number_is_not_another_number(storage):
    devices = ModelAccessor(Device, "devices", storage=storage)
    devices.insert_many([Device(serial="0042"), Device(serial="+1")])
    assert [row.record_id for row in trail(storage)] == ["0042", "+1"]
    with storage.use_session() as session:
        assert session.exec(select(AuditLog).where(AuditLog.record_id == 42)).all() == []


def test_the_readmes_queries_find_their_rows(storage, counters):
    counter = counters.insert(Counter(), actor="admin")
    counters.delete(counter.id)
    queries = {
        "component": AuditLog.component == "counters",
        "record_id": AuditLog.record_id == counter.id,
        "operation": AuditLog.operation == "create",
        "actor": AuditLog.actor == "admin",
    }
    with storage.use_session() as session:
        found = {name: len(session.exec(select(AuditLog).where(query)).all()) for name, query in queries.items()}
    assert found == {"component": 2, "record_id": 2, "operation": 1, "actor": 1}


SPELLINGS: list[tuple[str, Any, Any]] = [
    ("moment", datetime(2026, 3, 29, 1, 30, tzinfo=timezone.utc), "2026-03-29T03:30:00+02:00"),
    ("moment", datetime(2026, 1, 1, tzinfo=timezone.utc), "2026-01-01T00:00:00Z"),
    ("moment", datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=timezone.utc), "1969-12-31T23:59:59.999999+00:00"),
    ("price", Decimal("1.5"), Decimal("1.50")),
    ("price", Decimal("1e2"), "100.00"),
    ("price", Decimal("-0.00"), 0),
    ("ratio", 1.0, 1),
    ("ratio", 0.1 + 0.2, "0.30000000000000004"),
    ("ratio", 5e-324, 5e-324),
    ("ratio", -0.0, 0),
    ("ratio", 1.7976931348623157e308, 1.7976931348623157e308),
    ("text", "a ", "a "),
    ("number", 7, "7"),
    ("flag", True, 1),
    ("day", date(2026, 1, 1), "2026-01-01"),
    ("clock", time(12), "12:00:00"),
    ("clock", time(12, 0, 0, 1), "12:00:00.000001"),
    ("duration", timedelta(hours=1), "PT1H"),
    ("duration", timedelta(days=-1, microseconds=1), -86399.999999),
    ("token", uuid.UUID(int=1), str(uuid.UUID(int=1)).upper()),
    ("color", Color.BLUE, "b"),
    ("raw", b"", ""),
    ("raw", b"abc", "abc"),
    ("settings", {"a": 1, "b": [1.0]}, {"b": [1.0], "a": 1}),
    ("settings", {"k": "é\u2028"}, {"k": "é\u2028"}),
]  # fmt: skip


@pytest.mark.parametrize("engine", ["sqlite", "postgresql", "mariadb"])
def test_one_value_in_two_spellings_is_no_difference(make_database, open_storage, engine):
    storage = open_storage(make_database(engine))
    samples = ModelAccessor(Sample, "samples", storage=storage)
    differences = []
    for name, one, other in SPELLINGS:
        sample = samples.insert(Sample(**{name: one}))
        before = len(trail(storage))
        samples.update(sample.id, **{name: other})
        samples.save(Sample.model_validate({**samples.get(sample.id).model_dump(), name: other}))
        samples.delete(sample.id)
        rows = trail(storage)
        if len(rows) != before + 1 or rows[-1].before != rows[before - 1].after:
            differences.append((name, one, other, [(row.operation, row.before, row.after) for row in rows[before:]]))
    assert differences == []


def test_snapshots_are_plain_compact_json(storage, samples):
    samples.insert(Sample(text="é", settings={"a": [1, None]}))
    with storage.use_session() as session:
        stored = session.connection().execute(text("SELECT after FROM auditlog")).scalar_one()
    stored = stored if isinstance(stored, str) else json.dumps(stored, ensure_ascii=False, separators=(",", ":"))
    assert stored.startswith('{"id":1,"text":"é","number":0,"ratio":0.0,"flag":false,"price":"0.00","moment":"20')


def test_the_order_of_the_fields_in_a_snapshot_is_the_models(storage):
    users = ModelAccessor(User, "users", storage=storage)
    user = users.insert(User(name="Ana", email="ana@example.com"))
    users.update(user.id, name="Anna")
    for row in trail(storage):
        assert list(row.after) == ["id", "name", "email", "age", "deleted_at"]


def test_what_the_database_fills_in_stands_in_the_snapshot(make_database, open_storage):
    from sqlalchemy import Column, FetchedValue, Integer, String
    from sqlalchemy.orm import registry
    from sqlmodel import Field, SQLModel

    class Own(SQLModel, registry=registry()):
        pass

    class Order(Own, table=True):
        id: int | None = Field(default=None, primary_key=True)
        status: str | None = Field(default=None, sa_column=Column(String(10), server_default="new", nullable=False))
        number: int | None = Field(
            default=None, sa_column=Column(Integer, server_default="100", server_onupdate=FetchedValue())
        )

    for engine in ("sqlite", "postgresql", "mariadb"):
        storage = open_storage(make_database(engine))
        orders = ModelAccessor(Order, "orders", storage=storage)
        assert orders.storage is storage
        storage.create_tables()
        order = orders.insert(Order())
        assert (order.status, order.number) == ("new", 100)
        assert trail(storage)[0].after == {"id": order.id, "status": "new", "number": 100}


def test_the_audit_trail_is_not_audited(storage):
    with storage.transaction() as session:
        session.add(
            AuditLog(
                timestamp=datetime.now(timezone.utc), component="c", record_id=1, operation="create", actor="somebody"
            )
        )
    assert history(storage) == [("c", "create", 1)]


def test_the_trail_is_searched_through_indexes(sqlite_storage):
    queries = {
        "component = 'c' ORDER BY timestamp, id": "ix_auditlog_component_timestamp",
        "component = 'c' AND record_id = '1' ORDER BY timestamp, id": "ix_auditlog_component_record_id_timestamp",
        "timestamp > '2026'": "ix_auditlog_timestamp",
    }
    with sqlite_storage.use_session() as session:
        for query, index in queries.items():
            plan = session.connection().exec_driver_sql(f"EXPLAIN QUERY PLAN SELECT * FROM auditlog WHERE {query}")
            details = " ".join(row[3] for row in plan)
            assert index in details
            assert "TEMP B-TREE" not in details
