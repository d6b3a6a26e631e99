"""SQLModel used by hand: a session per call, one audit object per change."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import JSON, Column, desc
from sqlmodel import Field, Session, SQLModel, create_engine, select

from benchmarks.model import ZONE, User, now
from benchmarks.rows import Row


class AuditLog(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    timestamp: datetime = Field(index=True)
    component: str = Field(index=True)
    record_id: int = Field(index=True)
    operation: str
    actor: str
    before: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))
    after: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON(none_as_null=True)))


def entry(operation: str, actor: str, before: Any, user: User) -> AuditLog:
    return AuditLog(
        timestamp=now(), component="users", record_id=user.id, operation=operation, actor=actor, before=before,
        after=user.model_dump(mode="json"),
    )  # fmt: skip


class Contender:
    zone = ZONE

    def __init__(self, path: Path, durability: str | None = None) -> None:
        self.engine = create_engine(f"sqlite:///{path}", connect_args={"check_same_thread": False})

    def create_tables(self) -> None:
        SQLModel.metadata.create_all(self.engine)

    def close(self) -> None:
        self.engine.dispose()

    def session(self) -> Session:
        return Session(self.engine, expire_on_commit=False)

    def insert(self, row: Row) -> None:
        self.insert_in_one_transaction([row])

    def insert_in_one_transaction(self, rows: list[Row]) -> None:
        with self.session() as session:
            for row in rows:
                user = User(**row)
                session.add(user)
                session.flush()
                session.add(entry("create", "bench", None, user))
            session.commit()

    def insert_many(self, rows: list[Row]) -> None:
        with self.session() as session:
            users = [User(**row) for row in rows]
            session.add_all(users)
            session.flush()
            session.add_all([entry("create", "bench", None, user) for user in users])
            session.commit()

    def get(self, key: int) -> Any:
        with self.session() as session:
            user = session.get(User, key)
            return None if user is None or user.deleted_at is not None else user

    def all(self) -> list[User]:
        with self.session() as session:
            return list(session.exec(select(User).where(User.deleted_at.is_(None))))

    def save(self, key: int, row: Row) -> None:
        with self.session() as session:
            user = session.get(User, key)
            before = user.model_dump(mode="json")
            for name, value in row.items():
                setattr(user, name, value)
            session.add(entry("update", "bench", before, user))
            session.commit()

    def delete(self, key: int) -> None:
        self.delete_many([key])

    def delete_many(self, keys: list[int]) -> None:
        with self.session() as session:
            for start in range(0, len(keys), 500):
                for user in session.exec(select(User).where(User.id.in_(keys[start : start + 500]))):
                    before = user.model_dump(mode="json")
                    user.deleted_at = now()
                    session.add(entry("soft_delete", "bench", before, user))
            session.commit()

    def audit_place(self, offset: int) -> int:
        """Where the page that skips so many rows begins."""
        return offset

    def audit_page(self, offset: int) -> int:
        with self.session() as session:
            statement = select(AuditLog).where(AuditLog.component == "users").order_by(desc(AuditLog.timestamp))
            return len(session.exec(statement.offset(offset).limit(100)).all())
