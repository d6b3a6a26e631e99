"""Releases of a machine's models: each may declare other tables than the one before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

import vstorage_migrate.plugin
from vstorage_core import ModelAccessor, Storage


@pytest.fixture
def new_release() -> Callable[[], type[SQLModel]]:
    """Gives a base for the models of one release."""

    def new() -> type[SQLModel]:
        class Release(SQLModel, registry=registry()):
            pass

        return Release

    return new


@pytest.fixture
def open_release() -> Iterator[Callable[..., Storage]]:
    """Opens a storage for the models of one release, without creating tables; closes it at the end."""
    opened: list[Storage] = []

    def open_(url: str, *models: type[SQLModel], **options: Any) -> Storage:
        storage = Storage(url, **{"entry_points": [], "plugins": [vstorage_migrate.plugin], **options})
        opened.append(storage)
        for model in models:
            storage.register(ModelAccessor(model, str(model.__tablename__), storage=storage))
        return storage

    yield open_
    for storage in opened:
        storage.close()


@pytest.fixture
def first(new_release: Callable[[], type[SQLModel]], open_release: Callable[..., Storage]) -> Callable[[str], None]:
    """Puts the first release's recipes into a database: water, juice, and milk."""

    class Recipe(new_release(), table=True):  # type: ignore[misc]
        id: int | None = Field(default=None, primary_key=True)
        name: str = Field(max_length=40)
        speed: int | None = Field(default=None, index=True)

    def fill(url: str) -> None:
        with open_release(url, Recipe) as storage:
            storage.create_tables()
            storage.accessors[0].insert_many([Recipe(name=name, speed=80) for name in ("water", "juice", "milk")])

    return fill
