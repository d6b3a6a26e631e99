"""Models that the tests share."""

import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any, Optional

from pydantic import field_validator
from sqlalchemy import JSON, Column
from sqlmodel import Field, Relationship, SQLModel


def now() -> datetime:
    return datetime.now(timezone.utc)


class User(SQLModel, table=True):
    """Soft-deleted, with a unique field."""

    __tablename__ = "users"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(max_length=50)
    email: str = Field(unique=True)
    age: int | None = Field(default=None, ge=0)
    deleted_at: datetime | None = Field(default=None, index=True)

    @field_validator("email")
    @classmethod
    def _has_at(cls, email: str) -> str:
        if "@" not in email:
            raise ValueError("an address has an @")
        return email.lower()


class Counter(SQLModel, table=True):
    """Hard-deleted."""

    id: int | None = Field(default=None, primary_key=True)
    value: int = 0


class Team(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str
    members: list["Member"] = Relationship(back_populates="team")


class Member(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str
    team_id: int | None = Field(default=None, foreign_key="team.id")
    team: Optional["Team"] = Relationship(back_populates="members")


class Device(SQLModel, table=True):
    """A key that is neither an int nor called id."""

    serial: str = Field(primary_key=True, max_length=50)
    label: str = ""


class Ticket(SQLModel, table=True):
    key: uuid.UUID = Field(default_factory=uuid.uuid4, primary_key=True)
    title: str


class Color(Enum):
    RED = "r"
    BLUE = "b"


class Sample(SQLModel, table=True):
    """Every column type."""

    id: int | None = Field(default=None, primary_key=True)
    text: str = ""
    number: int = 0
    ratio: float = 0.0
    flag: bool = False
    price: Decimal = Field(default=Decimal("0.00"), max_digits=12, decimal_places=2)
    moment: datetime = Field(default_factory=now)
    day: date | None = None
    clock: time | None = None
    duration: timedelta | None = None
    token: uuid.UUID | None = None
    color: Color = Color.RED
    raw: bytes | None = None
    settings: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
