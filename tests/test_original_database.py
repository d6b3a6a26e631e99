"""A database that the original (vention-storage 0.5.1) wrote opens, is readable, and goes on. See data/README.md."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel, col, select
from trail import trail

from vstorage_core import AuditLog, ModelAccessor, Storage

ORIGINAL = Path(__file__).parent / "data" / "original-0.5.1.sqlite"


class Old(SQLModel, registry=registry()):
    """Base of the original's models, beside those of the other tests."""


class User(Old, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str
    email: str
    deleted_at: datetime | None = Field(default=None, index=True)


class Product(Old, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str
    price: float
    released_at: datetime | None = None


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return Path(shutil.copy(ORIGINAL, tmp_path / "machine.db"))


@pytest.fixture
def storage(path: Path) -> Iterator[Storage]:
    with Storage(f"sqlite:///{path}", entry_points=[]) as storage:
        storage.register(ModelAccessor(User, "users", storage=storage))
        storage.register(ModelAccessor(Product, "products", storage=storage))
        storage.create_tables()
        yield storage


@pytest.fixture
def users(storage: Storage) -> ModelAccessor[User]:
    return ModelAccessor(User, "users", storage=storage)


def schema(path: Path) -> dict[str, str]:
    connection = sqlite3.connect(path)
    found = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE sql IS NOT NULL"))
    connection.close()
    return found


def test_its_records_are_read_as_they_are(storage, users):
    assert [(user.id, user.name) for user in users.all()] == [(1, "Alice Smith"), (4, "Dora")]
    deleted = users.get(2, include_deleted=True)
    assert deleted.deleted_at.utcoffset() == timedelta(0)
    [drill] = ModelAccessor(Product, "products", storage=storage).all()
    assert (drill.id, drill.name, drill.price, drill.released_at) == (2, "Drill", 49.0, None)


def test_its_audit_trail_is_readable(storage):
    rows = trail(storage)
    assert [(row.id, row.component, row.operation, row.record_id, row.actor) for row in rows] == [
        (1, "users", "create", 1, "admin"),
        (2, "users", "create", 2, "admin"),
        (3, "users", "update", 1, "supervisor"),
        (4, "users", "soft_delete", 2, "admin"),
        (5, "users", "restore", 2, "admin"),
        (6, "users", "soft_delete", 2, "operator"),
        (7, "users", "create", 3, "import"),
        (8, "users", "create", 4, "import"),
        (9, "users", "soft_delete", 3, "import"),
        (10, "products", "create", 1, "internal"),
        (11, "products", "create", 2, "internal"),
        (12, "products", "delete", 1, "admin"),
    ]
    assert (rows[0].before, rows[11].after) == (None, None)
    assert (rows[2].before["name"], rows[2].after["name"]) == ("Alice", "Alice Smith")
    assert {row.timestamp.utcoffset() for row in rows} == {timedelta(0)}
    assert [row.timestamp for row in rows] == sorted(row.timestamp for row in rows)
    assert {(row.batch, row.reason, row.actor_source, row.request_id) for row in rows} == {(None,) * 4}


@pytest.mark.parametrize("record_id", [2, "2"])
def test_its_audit_rows_are_found_by_record_time_and_component(storage, users, record_id):
    users.restore(2)
    with storage.use_session() as session:
        query = select(AuditLog).where(AuditLog.component == "users", AuditLog.record_id == record_id)
        assert [row.id for row in session.exec(query).all()] == [2, 4, 5, 6, 13]
        since = datetime(2026, 11, 24, 7, 41, 36, 270000, tzinfo=timezone(timedelta(hours=1)))
        query = select(AuditLog.id).where(col(AuditLog.timestamp) >= since, AuditLog.component == "users")
        assert session.exec(query).all() == [7, 8, 9, 13]


def test_it_goes_on_where_it_was(storage, users):
    alice = users.get(1)
    alice.name = "Alice Jones"
    users.save(alice, actor="ana")
    assert users.restore(3, actor="ana")
    eve = users.insert(User(name="Eve", email="eve@example.com"), actor="ana")
    assert eve.id == 5
    rows = trail(storage)
    assert [row.id for row in rows] == list(range(1, 16))
    updated, restored, created = rows[12:]
    assert (updated.before, updated.after["name"]) == (rows[2].after, "Alice Jones")
    assert (restored.before["deleted_at"], restored.after["deleted_at"]) == ("2026-11-24T06:41:36.278863Z", None)
    assert created.before is None


def test_saving_what_it_stored_unchanged_writes_nothing(storage, users):
    for user in users.all():
        users.save(user)
        users.save(User.model_validate(user.model_dump()))
    products = ModelAccessor(Product, "products", storage=storage)
    products.save(products.get(2))
    assert len(trail(storage)) == 12


def test_the_audit_table_gets_the_new_columns_and_indexes_and_keeps_the_old_ones(storage, path):
    before, after = schema(ORIGINAL), schema(path)
    assert {name for name in after if name not in before and "auditlog" in name} == {
        "ix_auditlog_component_timestamp",
        "ix_auditlog_component_record_id_timestamp",
    }
    assert all(after[name] == before[name] for name in before if name != "auditlog")
    connection = sqlite3.connect(path)
    columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(auditlog)")]
    connection.close()
    assert columns == [
        "id", "timestamp", "component", "record_id", "operation", "actor", "before", "after",
        "batch", "reason", "actor_source", "remote_address", "request_id",
    ]  # fmt: skip


def test_opening_it_again_changes_nothing(storage, path):
    storage.close()
    first = schema(path)
    with Storage(f"sqlite:///{path}", entry_points=[]) as again:
        again.create_tables()
    assert schema(path) == first


def test_the_upgrade_happens_before_the_first_use_without_create_tables(path):
    with Storage(f"sqlite:///{path}", entry_points=[]) as storage:
        ModelAccessor(User, "users", storage=storage).delete(4, actor="ana")
        assert trail(storage)[-1].operation == "soft_delete"
