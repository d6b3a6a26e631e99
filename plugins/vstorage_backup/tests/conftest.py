"""A machine with the backup plugin alone, on a database of the test's choice."""

import importlib.metadata
import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import models  # noqa: F401 (the tables of every machine)
import pytest
import sqlalchemy
from sqlalchemy import select

from vstorage_core import Storage
from vstorage_core.audit import AUDIT_TABLE

BACKUP = importlib.metadata.EntryPoint(name="backup", value="vstorage_backup.plugin", group="vstorage.plugins")


@pytest.fixture
def open_machine(open_storage: Callable[..., Storage]) -> Callable[..., Storage]:
    """Opens a storage with the backup plugin; keyword arguments are settings of its section."""

    def open_(url: str, *, plugins: Any = (), engine: Any = None, **settings: Any) -> Storage:
        config = {"backup": settings, "engine": engine or {}}
        return open_storage(url, entry_points=[BACKUP], plugins=plugins, config=config)

    return open_


@pytest.fixture
def machine(make_database: Callable[[str], str], open_machine: Callable[..., Storage]) -> Storage:
    """A machine on an SQLite file."""
    return open_machine(make_database("sqlite"))


@pytest.fixture(params=["sqlite", "memory", "postgresql", "mariadb"])
def any_machine(
    request: pytest.FixtureRequest, make_database: Callable[[str], str], open_machine: Callable[..., Storage]
) -> Storage:
    """A machine; the test runs once per engine."""
    return open_machine(make_database(request.param))


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Where a test puts its backup."""
    return tmp_path / "backup.sqlite"


class BlockedStream(io.BytesIO):
    """A file that is read only when the test lets it: `reached` tells that somebody wants to."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        self.reached.set()
        assert self.go_on.wait(30)
        return super().read(size)


@pytest.fixture
def blocked() -> type[BlockedStream]:
    return BlockedStream


@pytest.fixture
def content() -> Callable[[Storage], dict[str, list[Any]]]:
    """Reads all rows of all tables but the audit trail, as the models see them."""

    def read(storage: Storage) -> dict[str, list[Any]]:
        tables = [table for table in storage.tables() if table is not AUDIT_TABLE]
        with storage.snapshot() as connection:
            return {table.name: [tuple(row) for row in connection.execute(_ordered(table))] for table in tables}

    return read


@pytest.fixture
def trail() -> Callable[[Storage], list[tuple[Any, ...]]]:
    """Reads the audit trail."""

    def read(storage: Storage) -> list[tuple[Any, ...]]:
        with storage.snapshot() as connection:
            return [tuple(row) for row in connection.execute(_ordered(AUDIT_TABLE))]

    return read


@pytest.fixture
def temporary_files(tmp_path: Path) -> Callable[[], list[str]]:
    """Names of files below the test's folder that are neither databases nor backups."""

    def find() -> list[str]:
        return sorted(path.name for path in tmp_path.rglob("*") if path.name.endswith((".tmp", "-journal", ".part")))

    return find


def _ordered(table: sqlalchemy.Table) -> sqlalchemy.Select[Any]:
    return select(table).order_by(*table.primary_key.columns)
