"""A filling machine: stations, recipes, operators, counters. `make demo` runs it.

    python examples/machine.py [--port 8000] [--folder demo]

As a module it gives `app`, an application without a database of its own yet, and `accessors`; see `create_app`.
"""

from __future__ import annotations

import argparse
import logging
import socket
from collections.abc import Sequence
from datetime import datetime, timezone
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from sqlalchemy import JSON, CheckConstraint, Column
from sqlmodel import Field, SQLModel

from vstorage_core import Change, ModelAccessor, Storage, acting_as, bootstrap

logger = logging.getLogger("machine")


class StationKind(Enum):
    FILLING = "filling"
    CAPPING = "capping"
    LABELLING = "labelling"


class Station(SQLModel, table=True):
    """A place on the machine where something is done to the product."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(min_length=1, max_length=40, unique=True, schema_extra={"examples": ["Filler 1"]})
    kind: StationKind
    installed_at: datetime = Field(default_factory=lambda: datetime.now(timezone.utc))


class Operator(SQLModel, table=True):
    """Who works at the machine. Never really deleted: the audit trail refers to them."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(min_length=1, max_length=80)
    badge: str = Field(max_length=20, unique=True)
    deleted_at: datetime | None = Field(default=None, index=True)


class Recipe(SQLModel, table=True):
    """How a station makes a product."""

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(min_length=1, max_length=80, index=True)
    station_id: int = Field(foreign_key="station.id")
    fill_volume_ml: Decimal = Field(gt=0, max_digits=8, decimal_places=2)
    speed_percent: int = Field(default=80, ge=1, le=100)
    approved_by_id: int | None = Field(default=None, foreign_key="operator.id")
    approved_at: datetime | None = None
    parameters: dict[str, Any] = Field(default_factory=dict, sa_column=Column(JSON, nullable=False))
    deleted_at: datetime | None = Field(default=None, index=True)


class Counter(SQLModel, table=True):
    """What a station has made since it was installed."""

    __table_args__ = (CheckConstraint("good >= 0 AND scrap >= 0", name="counts_are_not_negative"),)

    id: int | None = Field(default=None, primary_key=True)
    station_id: int = Field(foreign_key="station.id", unique=True)
    good: int = 0
    scrap: int = 0


stations = ModelAccessor(Station, "stations")
operators = ModelAccessor(Operator, "operators")
recipes = ModelAccessor(Recipe, "recipes")
counters = ModelAccessor(Counter, "counters")
accessors: list[ModelAccessor[Any]] = [stations, operators, recipes, counters]


@recipes.before_insert()
@recipes.before_update()
def refuse_fast_foam(instance: Recipe) -> None:
    if instance.parameters.get("foaming") and instance.speed_percent > 60:
        raise ValueError("a foaming product must not run faster than 60 %")


@counters.before_update()
def refuse_counting_down(instance: Counter, before: dict[str, Any]) -> None:
    if instance.good < before["good"]:
        raise ValueError("good parts are never taken back; reset the counter by installing a new one")


@recipes.after_commit()
def tell_the_hmi(changes: list[Change]) -> None:
    for change in changes:
        logger.info("recipe %s: %s by %s", change.record_id, change.operation, change.actor)


def create_app(database_url: str) -> tuple[FastAPI, Storage]:
    """The web application of the machine, on that database."""
    app = FastAPI(title="Filling machine", version="1.0")
    storage = bootstrap(app, accessors=accessors, database_url=database_url, max_records_per_model=1000)
    return app, storage


def seed(storage: Storage) -> None:
    """The data of a new machine; does nothing on one that has data."""
    if stations.count():
        return
    with acting_as("commissioning", reason="first start"), storage.transaction():
        filler, capper, labeller = stations.insert_many(
            [
                Station(name="Filler 1", kind=StationKind.FILLING),
                Station(name="Capper 1", kind=StationKind.CAPPING),
                Station(name="Labeller 1", kind=StationKind.LABELLING),
            ]
        )
        ana, _ben = operators.insert_many([Operator(name="Ana", badge="A-17"), Operator(name="Ben", badge="B-04")])
        water, _juice, _beer = recipes.insert_many(
            [
                Recipe(name="Still water 0.5 l", station_id=filler.id, fill_volume_ml=Decimal("500.00")),
                Recipe(
                    name="Apple juice 0.33 l",
                    station_id=filler.id,
                    fill_volume_ml=Decimal("330.50"),
                    speed_percent=70,
                    parameters={"rinse": True, "nozzles": [1, 2, 3, 4]},
                ),
                Recipe(
                    name="Beer 0.5 l",
                    station_id=filler.id,
                    fill_volume_ml=Decimal("500.00"),
                    speed_percent=55,
                    parameters={"foaming": True, "counter_pressure_bar": 2.4},
                ),
            ]
        )
        counters.insert_many([Counter(station_id=station.id) for station in (filler, capper, labeller)])
        recipes.update(water.id, actor="Ana", approved_by_id=ana.id, approved_at=datetime.now(timezone.utc))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Serve the example machine.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free one")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where the database is kept")
    options = parser.parse_args(arguments)
    options.folder.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")

    app, storage = create_app(f"sqlite:///{options.folder / 'machine.db'}")
    seed(storage)

    with socket.create_server((options.host, options.port)) as listener:
        # Or each answer on a connection that is kept waits 40 ms for the client to confirm its headers.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        address = f"http://{options.host}:{listener.getsockname()[1]}"
        print(f"The machine is served at {address}. Open:")
        for path, what in {
            "/docs": "try the API",
            "/recipes/": "the recipes",
            "/db/audit": "who changed what",
            "/db/diagram.svg": "the tables",
            "/db/export.zip": "all data as CSV",
            "/db/backup.sqlite": "a backup",
            "/db/health": "is it well?",
            "/db/plugins": "what is installed",
        }.items():
            print(f"  {address}{path:<20} {what}")
        print("Ctrl-C stops it; the data stays in", options.folder / "machine.db", flush=True)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", proxy_headers=False))
        server.run(sockets=[listener])


if __name__ == "__main__":
    main()
