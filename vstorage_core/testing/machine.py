"""The machine that plugins are tested on: three tables full of odd values, and what all contracts share."""

import importlib.metadata
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Column, select
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from vstorage_core import ModelAccessor, Storage
from vstorage_core.plugins import ENTRY_POINT_GROUP


class Kit(SQLModel, registry=registry()):
    """Tables of their own metadata, so that they are in no database but those of the contracts."""


class Station(Kit, table=True):
    """Deleted for good."""

    __tablename__ = "kit_station"

    id: int | None = Field(default=None, primary_key=True)
    name: str


class Part(Kit, table=True):
    """Soft-deleted, with a unique field and a reference."""

    __tablename__ = "kit_part"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True, max_length=255)
    station_id: int | None = Field(default=None, foreign_key="kit_station.id")
    deleted_at: datetime | None = None


class State(Enum):
    """Of a sample."""

    GOOD = "g"
    BAD = "b"


class Sample(Kit, table=True):
    """A column of every kind."""

    __tablename__ = "kit_sample"

    id: int | None = Field(default=None, primary_key=True)
    text: str | None = None
    number: int = 0
    ratio: float = 0.0
    flag: bool = False
    price: Decimal = Field(default=Decimal("0.00"), max_digits=12, decimal_places=2)
    moment: datetime | None = None
    day: date | None = None
    clock: time | None = None
    duration: timedelta | None = None
    token: uuid.UUID | None = None
    state: State = State.GOOD
    raw: bytes | None = None
    settings: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))


MODELS: Mapping[str, type[SQLModel]] = {"kit_stations": Station, "kit_parts": Part, "kit_samples": Sample}
OpenStorage = Callable[..., Storage]
ODD_TEXTS = (
    None,
    "",
    " ",
    "line\nbreak\r\n",
    "quo\"te's,;\t\\",
    "=1+1",
    "NULL",
    "\\N",
    "naïve 🦾 日本",
    "\u2028",
    "x" * 9000,
)


def fill(storage: Storage) -> None:
    """Store odd values: empty, long, extreme, with every character that means something to some format."""
    stations, parts, samples = accessors_of(storage)
    filler, capper = stations.insert_many([Station(name="Filler 🦾"), Station(name="")], actor="ana")
    stations.update(filler.id, name='Filler,\n"2"', actor="ana")
    parts.insert_many([Part(name=f"part {n}", station_id=filler.id if n else None) for n in range(5)], actor="ana")
    parts.delete(1, actor="ben")
    stations.delete(capper.id, actor="ben")
    samples.insert_many([Sample(text=text) for text in ODD_TEXTS], actor="ana")
    samples.insert_many(
        [
            Sample(number=2**63 - 1, ratio=0.1, price=Decimal("-9999999999.99"), raw=b"\x00\xff\n'", flag=True),
            Sample(number=-(2**63), ratio=-5e-324, state=State.BAD, raw=b"", token=uuid.UUID(int=1)),
            Sample(ratio=1.7976931348623157e308, settings={"a": [1, None, True, "ü\n"], "": {}}),
            Sample(moment=datetime(1999, 12, 31, 23, 59, 59, 999999, timezone.utc), day=date(1, 1, 1)),
            Sample(clock=time(23, 59, 59, 1), duration=timedelta(days=-1, microseconds=1)),
        ],
        actor="ana",
    )


def accessors_of(storage: Storage) -> tuple[ModelAccessor[Any], ModelAccessor[Any], ModelAccessor[Any]]:
    """Those of stations, parts and samples."""
    stations, parts, samples = (ModelAccessor(model, name, storage=storage) for name, model in MODELS.items())
    for accessor in (stations, parts, samples):
        storage.register(accessor)
    return stations, parts, samples


def rows_of(storage: Storage) -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables, those of the audit trail too."""
    tables = storage.tables()
    with storage.snapshot() as connection:
        return {
            table.name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key.columns))]
            for table in tables
        }


def changes_since(before: dict[str, list[tuple[Any, ...]]], storage: Storage) -> dict[str, list[tuple[Any, ...]]]:
    """The rows that came, went or changed since `rows_of` gave `before`, by table."""
    now = rows_of(storage)
    return {
        name: [row for row in (*rows, *now[name]) if row not in rows or row not in now[name]]
        for name, rows in before.items()
        if rows != now[name]
    }


def use(storage: Storage) -> None:
    """Do with a database what a machine does."""
    stations, parts, _ = accessors_of(storage)
    storage.create_tables()
    station = stations.insert(Station(name="Capper"))
    part = parts.insert(Part(name=f"part {uuid.uuid4()}", station_id=station.id))
    part.name += " of old"
    parts.save(part)
    parts.delete(part.id)
    assert parts.restore(part.id)
    assert parts.get(part.id) is not None


def problems_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What vstorage has logged as an error, e.g. of hooks that may not raise."""
    return [
        f"{record.getMessage()}: {record.exc_info and record.exc_info[1]!r}"
        for record in caplog.records
        if record.name.startswith("vstorage") and record.levelname == "ERROR"
    ]


def entry_point_of(plugin: object) -> importlib.metadata.EntryPoint | None:
    """That by which vstorage finds the plugin, or None where none leads to it."""
    candidates: Iterable[importlib.metadata.EntryPoint] = importlib.metadata.entry_points(group=ENTRY_POINT_GROUP)
    for candidate in candidates:
        # Others are not imported: they may be broken.
        module = sys.modules.get(candidate.module)
        if module is not None and (getattr(module, candidate.attr, None) if candidate.attr else module) is plugin:
            return candidate
    return None


class PluginFixtures:
    """What every contract knows of a plugin; override what is different."""

    @pytest.fixture
    def plugin(self) -> object:
        """The plugin: a module or an object with hook implementations."""
        raise NotImplementedError("give your test class a fixture `plugin` that returns the plugin's module or object")

    @pytest.fixture
    def companions(self) -> Sequence[object]:
        """Plugins without which it does not load, e.g. because they bring the hooks that it implements."""
        return ()

    @pytest.fixture
    def config(self) -> Mapping[str, Mapping[str, Any]]:
        """The configuration without which it does not start."""
        return {}

    @pytest.fixture
    def new_storage(
        self, plugin: object, companions: Sequence[object], config: Mapping[str, Mapping[str, Any]], tmp_path: Path
    ) -> OpenStorage:
        """Makes a storage of a new database with the plugin and, given as arguments, more plugins."""

        def new_storage(*more: object, kind: type[Storage] = Storage) -> Storage:
            return kind(
                f"sqlite:///{tmp_path / uuid.uuid4().hex}.db",
                plugins=[plugin, *companions, *more],
                entry_points=[],
                # A power cut is not what is tested.
                config={"engine": {"durability": "off"}, **config},
            )

        return new_storage

    @pytest.fixture
    def open_machine(self, new_storage: OpenStorage) -> Iterator[OpenStorage]:
        """Makes a storage with empty tables, and closes it at the end."""
        with ExitStack() as stack:

            def open_machine(*more: object) -> Storage:
                storage = stack.enter_context(new_storage(*more))
                accessors_of(storage)
                storage.create_tables()
                return storage

            yield open_machine

    @pytest.fixture
    def machine(self, open_machine: OpenStorage) -> Storage:
        """A storage full of odd values."""
        storage = open_machine()
        fill(storage)
        return storage
