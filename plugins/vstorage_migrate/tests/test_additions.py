"""What is added, on each engine: columns, indexes and tables that the models have and the database has not."""

import sqlite3
import subprocess
import sys
import threading
from datetime import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import models
import pytest
from sqlalchemy import JSON, Column, Index, Integer, UniqueConstraint, inspect, text
from sqlmodel import Field, SQLModel

from vstorage_core import ConfigurationError, ConstraintViolation, ModelAccessor, Storage, StorageUnavailable, bootstrap
from vstorage_migrate import migrate, plan


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request, make_database):
    return make_database(request.param)


class Grade(Enum):
    FINE = "f"
    COARSE = "c"


def columns(storage: Storage, table: str) -> list[str]:
    with storage.reading_connection() as connection:
        return [column["name"] for column in inspect(connection).get_columns(table)]


def test_new_columns_tables_and_indexes_are_added_and_the_data_stays(url, first, new_release, open_release):
    first(url)
    release = new_release()

    class Station(release, table=True):
        id: int | None = Field(default=None, primary_key=True)
        name: str = Field(unique=True)

    class Recipe(release, table=True):
        __table_args__ = (Index("ix_recipe_name_speed", "name", "speed", unique=True),)
        id: int | None = Field(default=None, primary_key=True)
        name: str = Field(max_length=40, index=True)
        speed: int | None = Field(default=None, index=True)
        cooling_seconds: int = 30
        label: str = Field(default="50 % it's \\ %(x)s :y ü", max_length=60, index=True)
        ratio: float = -1.5
        active: bool = True
        price: Decimal = Field(default=Decimal("1.25"), max_digits=12, decimal_places=2)
        grade: Grade = Grade.COARSE
        weight: int | None = 7
        serial: str | None = Field(default=None, unique=True)
        raw: bytes | None = None
        extra: dict[str, Any] | None = Field(default=None, sa_column=Column(JSON))
        revision: int = Field(sa_column=Column(Integer, nullable=False, server_default="3"))
        station_id: int | None = Field(default=None, foreign_key="station.id", ondelete="SET NULL", index=True)
        deleted_at: datetime | None = Field(default=None, index=True)

    with open_release(url, Station, Recipe) as storage:
        migrate(storage)
        assert plan(storage).is_empty
        stations, recipes = storage.accessors
        assert [recipe.name for recipe in recipes.all()] == ["water", "juice", "milk"]
        water = recipes.get(1)
        expected = {
            "speed": 80,
            "cooling_seconds": 30,
            "label": "50 % it's \\ %(x)s :y ü",
            "ratio": -1.5,
            "active": True,
            "price": Decimal("1.25"),
            "grade": Grade.COARSE,
            "weight": 7,
            "revision": 3,
            "serial": None,
            "station_id": None,
            "deleted_at": None,
        }
        assert {name: getattr(water, name) for name in expected} == expected
        recipes.update(1, serial="A", station_id=stations.insert(Station(name="filler")).id)
        with pytest.raises(ConstraintViolation, match="serial is taken"):
            recipes.update(2, serial="A")
        with pytest.raises(ConstraintViolation, match=r"station_id|a reference"):
            recipes.update(2, station_id=99)


def test_a_program_of_the_release_before_still_writes(url, first, new_release, open_release):
    first(url)

    class Recipe(new_release(), table=True):
        id: int | None = Field(default=None, primary_key=True)
        name: str = Field(max_length=40)
        speed: int | None = Field(default=None, index=True)
        cooling_seconds: int = 30

    with open_release(url, Recipe) as storage:
        migrate(storage)
        with storage.transaction() as session:
            session.execute(text("INSERT INTO recipe (name, speed) VALUES ('tea', 1)"))
        assert storage.accessors[0].find(name="tea")[0].cooling_seconds == 30


def test_a_database_that_vstorage_made_has_nothing_to_add(url, open_storage, new_release, open_release):
    release = new_release()

    class Station(release, table=True):
        id: int | None = Field(default=None, primary_key=True)

    class Kinds(release, table=True):
        __table_args__ = (UniqueConstraint("whole", "small"), UniqueConstraint("label", name="uq_own"))
        id: int | None = Field(default=None, primary_key=True)
        whole: int = Field(sa_column=Column(Integer, server_default="0", nullable=False))
        small: int = Field(sa_column=Column(Integer, server_default=text("7"), nullable=False))
        label: str = Field(max_length=40, sa_column_kwargs={"server_default": "it's 100% \\ ü"})
        grade: Grade = Field(default=Grade.FINE, sa_column_kwargs={"server_default": "FINE"})
        moment: datetime = Field(sa_column_kwargs={"server_default": text("CURRENT_TIMESTAMP")})
        code: str = Field(unique=True)
        serial: str = Field(unique=True, index=True)
        note: str | None = Field(default=None, sa_column_kwargs={"comment": "for people"})
        station_id: int | None = Field(default=None, foreign_key="station.id", ondelete="CASCADE")

    open_storage(url)  # with the models of the tests, among them one with every type
    assert models.Sample.metadata is SQLModel.metadata
    with open_release(url, Station, Kinds) as storage:
        storage.create_tables()
        assert str(plan(storage)) == "Nothing to do: the tables are as the models say."
        assert migrate(storage).plan.is_empty


def test_of_processes_that_start_at_once_one_migrates(url, first, new_release, open_release):
    first(url)

    class Recipe(new_release(), table=True):
        id: int | None = Field(default=None, primary_key=True)
        name: str = Field(max_length=40)
        speed: int | None = Field(default=None, index=True)
        note: str | None = Field(default=None, index=True)

    storages = [open_release(url, Recipe) for _ in range(4)]
    barrier = threading.Barrier(len(storages))
    taken = []

    def start(storage: Storage) -> None:
        barrier.wait()
        taken.append(len(migrate(storage).plan.steps))

    threads = [threading.Thread(target=start, args=(storage,)) for storage in storages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken)[:3] == [0, 0, 0]
    assert sorted(taken)[3] >= 2
    assert columns(storages[0], "recipe") == ["id", "name", "speed", "note"]


def test_what_a_killed_process_left_undone_is_done_at_the_next_start(url, first, new_release, open_release):
    first(url)

    class Recipe(new_release(), table=True):
        id: int | None = Field(default=None, primary_key=True)
        name: str = Field(max_length=40)
        speed: int | None = Field(default=None, index=True)
        note: str | None = Field(default=None, max_length=40, index=True, unique=True)
        place: int = 4

    with open_release(url, Recipe) as storage:
        # As MariaDB is left, where each statement is final.
        with storage.transaction() as session:
            session.execute(text("ALTER TABLE recipe ADD COLUMN note VARCHAR(40)"))
        migrate(storage)
        assert plan(storage).is_empty
        assert storage.accessors[0].get(3).place == 4


def test_tables_of_others_are_left_alone(url, first, new_release, open_release):
    first(url)

    class Alarm(new_release(), table=True):
        id: int | None = Field(default=None, primary_key=True)

    with open_release(url, Alarm) as storage:
        migrate(storage)
        assert columns(storage, "recipe") == ["id", "name", "speed"]
        with storage.reading_connection() as connection:
            assert connection.scalar(text("SELECT count(*) FROM recipe")) == 3


def test_keys_of_new_tables_are_never_given_twice(make_database, new_release, open_release):
    class Alarm(new_release(), table=True):
        id: int | None = Field(default=None, primary_key=True)

    with open_release(make_database("sqlite"), Alarm) as storage:
        migrate(storage)
        alarms = storage.accessors[0]
        alarms.delete(alarms.insert(Alarm()).id)
        assert alarms.insert(Alarm()).id == 2


def test_a_longer_text_needs_no_change_on_sqlite(make_database, first, new_release, open_release):
    url = make_database("sqlite")
    first(url)

    class Recipe(new_release(), table=True):
        id: int | None = Field(default=None, primary_key=True)
        name: str = Field(max_length=400)
        speed: int | None = Field(default=None, index=True)

    with open_release(url, Recipe) as storage:
        migrate(storage)
        assert plan(storage).is_empty


def test_a_database_in_memory_is_migrated_without_a_copy(new_release, open_release):
    class Alarm(new_release(), table=True):
        id: int | None = Field(default=None, primary_key=True)

    with open_release("sqlite://", Alarm) as storage:
        assert migrate(storage).copy is None
        assert storage.accessors[0].count() == 0


# Through bootstrap


def test_bootstrap_migrates_when_told_and_never_else(make_database, first, new_release, open_release):
    url = make_database("sqlite")
    first(url)

    class Recipe(new_release(), table=True):
        id: int | None = Field(default=None, primary_key=True)
        name: str = Field(max_length=40)
        speed: int | None = Field(default=None, index=True)
        note: str | None = None

    storage = open_release(url)
    recipes = ModelAccessor(Recipe, "recipes")
    bootstrap(accessors=[recipes], storage=storage)
    assert "note" not in columns(storage, "recipe")
    bootstrap(accessors=[recipes], storage=storage, auto_migrate=True)
    assert "note" in columns(storage, "recipe")


def test_bootstrap_tells_which_plugin_changes_tables(make_database, open_release):
    storage = open_release(make_database("sqlite"), plugins=[])
    with pytest.raises(ConfigurationError, match=r"pip install 'vstorage-core\[migrate\]'"):
        bootstrap(accessors=[], storage=storage, auto_migrate=True)


# The copy


def with_note(new_release):
    class Recipe(new_release(), table=True):
        id: int | None = Field(default=None, primary_key=True)
        name: str = Field(max_length=40)
        speed: int | None = Field(default=None, index=True)
        note: str | None = None

    return Recipe


def copies(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if "-before-migration-" in path.name)


def test_an_sqlite_file_is_copied_before(make_database, first, new_release, open_release, tmp_path):
    url = make_database("sqlite")
    first(url)
    with open_release(url, with_note(new_release)) as storage:
        copy = migrate(storage).copy
        assert [copy] == copies(tmp_path)
    connection = sqlite3.connect(copy)
    assert [row[1] for row in connection.execute("SELECT * FROM recipe ORDER BY id")] == ["water", "juice", "milk"]
    assert "note" not in [row[1] for row in connection.execute("PRAGMA table_info(recipe)")]
    connection.close()
    assert copy.stat().st_mode == Path(storage.engine.url.database).stat().st_mode
    storage.close()


def test_the_newest_copies_are_kept(make_database, first, new_release, open_release, tmp_path):
    url = make_database("sqlite")
    first(url)
    folder = tmp_path / "copies"
    config = {"migrate": {"folder": str(folder), "keep_copies": 2}}
    taken = []
    for number in range(3):
        with open_release(url, config=config) as storage:
            with storage.transaction() as session:
                session.execute(text(f"CREATE TABLE other{number} (id INTEGER)"))
            release = new_release()
            fields = {"__tablename__": f"alarm{number}", "__module__": __name__, "__annotations__": {"id": int | None}}
            model = type(SQLModel)(
                f"Alarm{number}", (release,), {**fields, "id": Field(default=None, primary_key=True)}, table=True
            )
            storage.register(ModelAccessor(model, "alarms", storage=storage))
            taken.append(migrate(storage).copy)
    assert copies(folder) == taken[1:]


def test_a_disk_without_room_for_the_copy_refuses_the_migration(
    make_database, first, new_release, open_release, tmp_path
):
    url = make_database("sqlite")
    first(url)
    config = {"migrate": {"min_free_bytes": 10**18}}
    with open_release(url, with_note(new_release), config=config) as storage:
        with pytest.raises(StorageUnavailable, match="make room, or name another folder"):
            migrate(storage)
        assert "note" not in columns(storage, "recipe")
    assert copies(tmp_path) == []


def test_a_machine_that_does_not_migrate_loads_no_alembic(make_database):
    code = (
        "import sys; from vstorage_core import Storage\n"
        "with Storage(sys.argv[1]) as storage:\n"
        "    print('migrate' in [plugin.name for plugin in storage.plugins()], 'alembic' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, make_database("sqlite")], capture_output=True, text=True)
    assert done.stdout == "True False\n", done.stderr
