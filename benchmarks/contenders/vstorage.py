"""vstorage as its README says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from starlette.datastructures import URL

from benchmarks.model import ZONE, User
from benchmarks.rows import Row
from vstorage_core import ModelAccessor, Storage
from vstorage_rest.trail import trail_conditions, trail_page


class Contender:
    zone = ZONE

    def __init__(self, path: Path, durability: str | None = None) -> None:
        self._storage = Storage(f"sqlite:///{path}", config={"engine": {"durability": durability or "full"}})
        self._users = ModelAccessor(User, "users", storage=self._storage)

    def create_tables(self) -> None:
        self._storage.create_tables()

    def close(self) -> None:
        self._storage.close()

    def insert(self, row: Row) -> None:
        self._users.insert(User(**row), actor="bench")

    def insert_in_one_transaction(self, rows: list[Row]) -> None:
        with self._storage.transaction():
            for row in rows:
                self._users.insert(User(**row), actor="bench")

    def insert_many(self, rows: list[Row]) -> None:
        self._users.insert_many((User(**row) for row in rows), actor="bench")

    def get(self, key: int) -> Any:
        return self._users.get(key)

    def all(self) -> list[User]:
        return self._users.all()

    def page(self, _: object) -> list[User]:
        return self._users.all(limit=100)

    def save(self, key: int, row: Row) -> None:
        self._users.save(User(id=key, **row), actor="bench")

    def delete(self, key: int) -> None:
        self._users.delete(key, actor="bench")

    def delete_many(self, keys: list[int]) -> None:
        self._users.delete_many(keys, actor="bench")

    def _audit_page(self, cursor: str | None, offset: int = 0) -> Any:
        conditions = trail_conditions(component="users")
        url = URL("http://localhost/db/audit")
        return trail_page(self._storage, conditions, url, limit=100, offset=offset, cursor=cursor, count=False)

    def audit_place(self, offset: int) -> str | None:
        """Where the page that skips so many rows begins."""
        if not offset:
            return None
        found = re.search(r"cursor=([^&>]+)", self._audit_page(None, offset - 100).headers["link"])
        assert found is not None
        return found[1]

    def audit_page(self, place: str | None) -> int:
        return self._audit_page(place).body.count(b'"component"')

    def export_csv(self, target: Path) -> None:
        self._storage.export("csv", target)

    def export_users(self, target: Path) -> None:
        self._storage.export("csv", target, tables=["users"])

    def import_users(self, source: Path) -> None:
        self._storage.import_("csv", source, mode="insert", actor="bench")

    def backup(self, target: Path) -> None:
        self._storage.export("backup", target)

    def restore(self, source: Path) -> None:
        self._storage.import_("restore", source, actor="bench")
