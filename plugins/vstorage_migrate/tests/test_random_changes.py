"""Random changes of models that hold data: each is migrated or refused, never half, and no value is lost."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from sqlalchemy import Column, Float, ForeignKey, Integer, MetaData, String, Table, inspect, select
from sqlmodel import Field

from vstorage_core import Storage
from vstorage_migrate import MigrationRefused, migrate, plan

KINDS = {"whole": Integer(), "text": String(40), "ratio": Float()}
DEFAULTS = {"whole": 5, "text": "it's 5 %", "ratio": 0.5}


@dataclass(frozen=True)
class Spec:
    """One column."""

    kind: str
    nullable: bool = True
    default: Any = None
    server_default: str | None = None
    index: bool = False
    unique: bool = False
    refers: bool = False


FIRST = {
    "alarm": {"code": Spec("text", nullable=False), "level": Spec("whole", index=True)},
    "recipe": {
        "name": Spec("text", nullable=False),
        "speed": Spec("whole", nullable=False, server_default="1"),
        "weight": Spec("ratio"),
        "same": Spec("whole"),
        "alarm_id": Spec("whole", refers=True),
    },
}
ROWS = {
    "alarm": [{"code": f"A{number}", "level": number} for number in range(1, 4)],
    "recipe": [
        {"name": f"r{number}", "speed": number, "weight": None, "same": 1, "alarm_id": 1 + number % 3}
        for number in range(5)
    ],
}


def columns(table: dict[str, Spec]) -> list[Any]:
    return [
        Column(
            name,
            KINDS[spec.kind],
            *([ForeignKey("alarm.id")] if spec.refers else []),
            nullable=spec.nullable,
            default=spec.default,
            server_default=spec.server_default,
            index=spec.index,
            unique=spec.unique,
        )
        for name, spec in table.items()
    ]


def change(rng: random.Random, tables: dict[str, dict[str, Spec]], *, only_safe: bool) -> bool:
    """Change the description in one way; returns whether that can be migrated."""
    recipe = tables["recipe"]
    new = f"new{len(recipe)}"
    kind = rng.choice(sorted(KINDS))

    def alter(name: str, **changes: Any) -> None:
        if name in recipe:
            recipe[name] = replace(recipe[name], **changes)

    changes: list[tuple[bool, Callable[[], object]]] = [
        (True, lambda: recipe.update({new: Spec(kind, index=rng.random() < 0.5)})),
        (True, lambda: recipe.update({new: Spec(kind, nullable=False, default=DEFAULTS[kind])})),
        (True, lambda: recipe.update({new: Spec(kind, default=DEFAULTS[kind], index=True)})),
        (True, lambda: recipe.update({new: Spec("whole", nullable=False, server_default="8")})),
        (True, lambda: recipe.update({new: Spec("text", unique=True)})),
        (True, lambda: recipe.update({new: Spec("whole", refers=True, index=True)})),
        (True, lambda: tables.update({f"table{len(tables)}": {"a": Spec(kind), "b": Spec("whole", refers=True)}})),
        (True, lambda: alter("weight", index=True)),
        (True, lambda: alter("name", index=True, unique=True)),
        (False, lambda: recipe.update({new: Spec(kind, nullable=False)})),
        (False, lambda: recipe.update({new: Spec("whole", nullable=False, default=2, unique=True)})),
        (False, lambda: recipe.update({new: Spec("whole", nullable=False, default=2, refers=True)})),
        (False, lambda: alter("same", unique=True)),
        (False, lambda: alter("same", index=True, unique=True)),
        (False, lambda: alter("weight", kind="whole")),
        (False, lambda: alter("name", nullable=True)),
        (False, lambda: alter("weight", nullable=False)),
        (False, lambda: alter("speed", server_default="2")),
        (False, lambda: alter("alarm_id", refers=False)),
        (False, lambda: alter("same", refers=True)),
        (False, lambda: tables.update(alarm={**tables["alarm"], "level": Spec("whole")})),
        (False, lambda: recipe.update(renamed=recipe.pop("same", Spec("whole")))),
        (False, lambda: recipe.pop("weight", None) or recipe.pop("name")),
    ]
    safe, make = rng.choice([each for each in changes if each[0] or not only_safe])
    make()
    return safe


def described(storage: Storage, names: list[str]) -> Any:
    """The database's tables without their data, in words that do not depend on how they came about."""
    with storage.reading_connection() as connection:
        inspector = inspect(connection)
        found = {}
        for name in names:
            if not inspector.has_table(name):
                continue
            uniques = [each["column_names"] for each in inspector.get_unique_constraints(name)]
            uniques += [each["column_names"] for each in inspector.get_indexes(name) if each["unique"]]
            found[name] = {
                "columns": {
                    each["name"]: (str(each["type"]), each["nullable"]) for each in inspector.get_columns(name)
                },
                "key": inspector.get_pk_constraint(name)["constrained_columns"],
                "references": sorted(each["constrained_columns"] for each in inspector.get_foreign_keys(name)),
                "unique": sorted({tuple(each) for each in uniques}),
                "indexes": sorted(
                    each["column_names"]
                    for each in inspector.get_indexes(name)
                    # MariaDB makes an index for each reference.
                    if not each["unique"] and not (connection.dialect.name == "mysql" and "_id" in each["name"])
                ),
            }
        return found


def stored(storage: Storage) -> dict[str, list[dict[str, Any]]]:
    with storage.reading_connection() as connection:
        tables = [Table(name, MetaData(), autoload_with=connection) for name in FIRST]
        return {
            table.name: [dict(row) for row in connection.execute(select(table).order_by(table.c.id)).mappings()]
            for table in tables
        }


@pytest.fixture
def open_tables(new_release, open_release):
    """Opens a storage whose models are the described tables."""

    def open_(url: str, tables: dict[str, dict[str, Spec]]) -> Storage:
        class Machine(new_release(), table=True):
            id: int | None = Field(default=None, primary_key=True)

        for name, specs in tables.items():
            Table(name, Machine.metadata, Column("id", Integer, primary_key=True), *columns(specs))
        return open_release(url, Machine)

    return open_


def drop_all(storage: Storage) -> None:
    with storage.engine.begin() as connection:
        storage.metadata()[-1].drop_all(connection)


def try_change(seed: int, url: str, open_tables: Any) -> bool:
    """Whether it was migrated."""
    rng = random.Random(seed)
    after = {name: dict(specs) for name, specs in FIRST.items()}
    only_safe = rng.random() < 0.5
    outcomes = [change(rng, after, only_safe=only_safe) for _ in range(rng.randint(1, 3))]
    is_safe = all(outcomes)
    with open_tables(url, FIRST) as storage:
        storage.create_tables()
        with storage.engine.begin() as connection:
            for name, rows in ROWS.items():
                connection.execute(storage.metadata()[-1].tables[name].insert(), rows)
        rows_before, tables_before = stored(storage), described(storage, [*FIRST])
    with open_tables(url, after) as storage:
        if not is_safe:
            with pytest.raises(MigrationRefused):
                migrate(storage)
            assert described(storage, [*after]) == tables_before, f"seed {seed} left half of it"
            assert stored(storage) == rows_before
        else:
            migrate(storage)
            assert plan(storage).is_empty
            kept = {
                table: [{name: row[name] for name in rows_before[table][0]} for row in rows]
                for table, rows in stored(storage).items()
            }
            assert kept == rows_before
            for name, spec in after["recipe"].items():
                if name not in FIRST["recipe"]:
                    expected = int(spec.server_default) if spec.server_default else spec.default
                    assert {row[name] for row in stored(storage)["recipe"]} == {expected}
            migrated = described(storage, [*after])
            drop_all(storage)
            storage.create_tables()
            assert migrated == described(storage, [*after]), f"seed {seed}"
        drop_all(storage)
    return is_safe


@pytest.mark.parametrize(
    ("engine", "seeds"),
    [
        ("sqlite", range(50)),
        ("postgresql", range(50, 56)),
        ("mariadb", range(50, 56)),
        pytest.param("postgresql", range(50), marks=pytest.mark.soak),
        pytest.param("mariadb", range(50), marks=pytest.mark.soak),
    ],
)
def test_each_of_many_changes_is_migrated_or_refused_never_half(engine, seeds, make_database, open_tables):
    url = make_database(engine)
    outcomes = [try_change(seed, url, open_tables) for seed in seeds]
    assert 0 < sum(outcomes) < len(seeds)
