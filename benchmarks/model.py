"""The model of the contenders that are built on SQLModel."""

from __future__ import annotations

from datetime import datetime, timezone, tzinfo

from sqlmodel import Field, SQLModel

try:
    from sqlmodel.sql.sqltypes import UTCDateTime  # noqa: F401
except ImportError:
    # The original's SQLModel stores naive times.
    ZONE: tzinfo | None = None
else:
    ZONE = timezone.utc


def now() -> datetime:
    return datetime.now(timezone.utc).replace(tzinfo=ZONE)


class User(SQLModel, table=True):
    __tablename__ = "users"

    id: int | None = Field(default=None, primary_key=True)
    name: str
    email: str
    quantity: int = 0
    price: float = 0.0
    active: bool = True
    created_at: datetime = Field(default_factory=now)
    notes: str = ""
    deleted_at: datetime | None = Field(default=None, index=True)


class NewUser(SQLModel):
    """What a client sends to the web APIs that are written by hand."""

    name: str
    email: str
    quantity: int = 0
    price: float = 0.0
    active: bool = True
    created_at: datetime = Field(default_factory=now)
    notes: str = ""
