"""Files of tables for the tests: imported, exported, packed, looked into."""

from __future__ import annotations

import io
import zipfile

from models import Counter, Device, Member, Sample, Team, Ticket, User
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel, select

from vstorage_core import AuditLog, ModelAccessor, Storage
from vstorage_transfer import ImportReport


class Local(SQLModel, registry=registry()):
    """Models of these tests alone."""


class Node(Local, table=True):
    id: int | None = Field(default=None, primary_key=True)
    parent_id: int | None = Field(default=None, foreign_key="node.id")


class Slot(Local, table=True):
    id: int | None = Field(default=None, primary_key=True)
    place: str = Field(unique=True)


MODELS = (User, Counter, Team, Member, Device, Ticket, Sample)


def registered(storage: Storage) -> Storage:
    """The storage with an accessor for each model."""
    for model in MODELS:
        storage.register(ModelAccessor(model, f"{model.__tablename__}-c", storage=storage))
    return storage


def accessor(storage, model):
    return next(accessor for accessor in storage.accessors if accessor.model is model)


def open_local(storage):
    for model in (Node, Slot):
        storage.register(ModelAccessor(model, model.__tablename__, storage=storage))
    storage.create_tables()


def load(storage, text, name="csv", **options) -> ImportReport:
    """Import the text of one file."""
    data = text if isinstance(text, bytes) else text.encode()
    return storage.import_(name, io.BytesIO(data), **options)


def export(storage, name="csv", **options):
    """The file of an export."""
    target = io.BytesIO()
    storage.export(name, target, **options)
    target.seek(0)
    return target


def members(archive):
    with zipfile.ZipFile(archive) as opened:
        return {name: opened.read(name).decode() for name in opened.namelist()}


def packed(files):
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    target.seek(0)
    return target


def content(storage):
    """Everything that is stored, as text."""
    texts = members(export(storage))
    del texts["manifest.json"]
    return texts


def counts(report, table):
    found = next(entry for entry in report.tables if entry.table == table)
    return {name: getattr(found, name) for name in ("create", "update", "unchanged", "delete", "bad")}


def trail(storage, **conditions):
    with storage.use_session() as session:
        statement = select(AuditLog).order_by(AuditLog.id)
        return session.exec(statement.filter_by(**conditions)).all()


def fill(storage):
    """Two users, one of them soft-deleted, a team with a member."""
    users = accessor(storage, User)
    users.insert(User(id=1, name="Ana", email="ana@example.com", age=30))
    users.insert(User(id=2, name="Ben", email="ben@example.com"))
    users.delete(2)
    accessor(storage, Team).insert(Team(id=1, name="red"))
    accessor(storage, Member).insert(Member(id=1, name="Mo", team_id=1))
    accessor(storage, Device).insert(Device(serial="=1+1", label="'=cmd"))
