"""The original as its README says; runs in a Python that has it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sqlalchemy import desc
from sqlmodel import SQLModel, select
from storage import database, io_helpers
from storage.accessor import ModelAccessor
from storage.auditor import AuditLog

from benchmarks.model import ZONE, User
from benchmarks.rows import Row


class Contender:
    zone = ZONE

    def __init__(self, path: Path, durability: str | None = None) -> None:
        database.set_database_url(f"sqlite:///{path}")
        self._users = ModelAccessor(User, "users")

    def create_tables(self) -> None:
        SQLModel.metadata.create_all(database.get_engine())

    def close(self) -> None:
        database.get_engine().dispose()

    def insert(self, row: Row) -> None:
        self._users.insert(User(**row), actor="bench")

    def insert_in_one_transaction(self, rows: list[Row]) -> None:
        with database.transaction():
            for row in rows:
                self._users.insert(User(**row), actor="bench")

    def insert_many(self, rows: list[Row]) -> None:
        self._users.insert_many([User(**row) for row in rows], actor="bench")

    def get(self, key: int) -> Any:
        return self._users.get(key)

    def all(self) -> list[User]:
        return self._users.all()

    def save(self, key: int, row: Row) -> None:
        self._users.save(User(id=key, **row), actor="bench")

    def delete(self, key: int) -> None:
        self._users.delete(key, actor="bench")

    def delete_many(self, keys: list[int]) -> None:
        self._users.delete_many(keys, actor="bench")

    def audit_place(self, offset: int) -> int:
        """Where the page that skips so many rows begins."""
        return offset

    def audit_page(self, offset: int) -> int:
        # What its GET /db/audit does.
        with database.use_session() as session:
            statement = select(AuditLog).where(AuditLog.component == "users").order_by(desc(AuditLog.timestamp))
            return len(session.exec(statement.offset(offset).limit(100)).all())

    def export_csv(self, target: Path) -> None:
        target.write_bytes(io_helpers.build_export_zip_bytes(io_helpers.discover_user_tables()))

    def backup(self, target: Path) -> None:
        target.write_bytes(io_helpers.build_backup_bytes(io_helpers.db_file_path()))

    def restore(self, source: Path) -> None:
        path = Path(io_helpers.db_file_path())
        with source.open("rb") as file:
            copy, _ = io_helpers.save_upload_to_temp(SimpleNamespace(file=file), path.parent)
        io_helpers.validate_sqlite_file(copy, run_integrity_check=True)
        io_helpers.atomic_replace_db(copy, path)
