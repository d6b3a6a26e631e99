"""What is refused, how it is said, and that nothing was changed then."""

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from sqlalchemy import Column, Index, Text, text
from sqlmodel import Field

from vstorage_cli.main import vstorage
from vstorage_migrate import MigrationRefused, migrate, plan


@pytest.fixture(params=["sqlite", "postgresql", "mariadb"])
def url(request, make_database):
    return make_database(request.param)


@pytest.fixture
def changed(new_release):
    """A release with something to add, something renamed, something required, and a name that must be unique."""

    class Recipe(new_release(), table=True):
        id: int | None = Field(default=None, primary_key=True)
        name: str = Field(max_length=40)
        velocity: int | None = None
        speed: int = Field(unique=True, index=True)
        batch: int
        note: str | None = None

    return Recipe


def test_what_only_a_person_can_resolve_is_listed_with_the_way_out(url, first, changed, open_release):
    first(url)
    with open_release(url, changed) as storage:
        with pytest.raises(MigrationRefused) as refused:
            migrate(storage)
        message = str(refused.value)
        assert "recipe.speed: is optional, in the model required" in message
        assert "recipe.speed: speed must be unique, but 2 existing rows repeat a value" in message
        assert "recipe.batch: is new and required, and existing rows have no value" in message
        assert 'alembic revision --autogenerate -m "change recipe"' in message
        assert "password" not in message
        # Not even what could have been added was.
        assert "recipe: add column note" in message
        assert str(plan(storage).steps[0]).startswith("recipe: add column velocity")


def test_another_key_and_another_choice_of_values_are_refused(url, first, new_release, open_release):
    first(url)

    class Recipe(new_release(), table=True):
        name: str = Field(primary_key=True, max_length=40)
        speed: int | None = Field(default=None, index=True)

    with open_release(url, Recipe) as storage, pytest.raises(MigrationRefused) as refused:
        migrate(storage)
    assert "recipe: the key is (id), in the model (name)" in str(refused.value)
    assert "recipe.id: the model has no such column; if it was renamed" in str(refused.value)


def test_a_statement_that_fails_takes_back_those_before_it(url, first, new_release, open_release):
    first(url)

    class Alarm(new_release(), table=True):
        id: int | None = Field(default=None, primary_key=True)
        code: str = Field(sa_column=Column(Text, nullable=False))

    class Recipe(Alarm.__base__, table=True):
        __table_args__ = (Index("ix_recipe_second", "second", "third"),)
        id: int | None = Field(default=None, primary_key=True)
        name: str = Field(max_length=40)
        speed: int | None = Field(default=None, index=True)
        first: str | None = Field(default=None, index=True, unique=True)
        second: str | None = Field(default=None, max_length=800)
        third: str | None = Field(default=None, max_length=800)

    with open_release(url, Alarm, Recipe) as storage:
        before = [str(step) for step in plan(storage).steps]
        # The name of the last index is taken; MariaDB, where it may be, refuses such long keys.
        with storage.transaction() as session:
            session.execute(text("CREATE TABLE other (id INTEGER)"))
            session.execute(text("CREATE INDEX ix_recipe_second ON other (id)"))
        with pytest.raises(MigrationRefused, match="was not changed: recipe: add index ix_recipe_second failed with"):
            migrate(storage)
        assert [str(step) for step in plan(storage).steps] == before


def test_a_database_with_an_alembic_directory_is_left_to_it(url, first, new_release, open_release):
    first(url)

    class Recipe(new_release(), table=True):
        id: int | None = Field(default=None, primary_key=True)
        name: str = Field(max_length=40)
        speed: int | None = Field(default=None, index=True)
        note: str | None = None

    with open_release(url, Recipe) as storage:
        with storage.transaction() as session:
            session.execute(text("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL)"))
        with pytest.raises(MigrationRefused, match="alembic upgrade head"):
            migrate(storage)


# The command

MACHINE = """
from sqlmodel import Field, SQLModel

class Recipe(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(max_length=40)
    speed: int | None = Field(default=None, index=True)
    note: str | None = None
"""


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


def test_the_command_prints_the_plan_and_then_follows_it(tmp_path, make_database, first):
    url = make_database("sqlite")
    first(url)
    (tmp_path / "machine.py").write_text(MACHINE)
    common = ["vstorage_cli", "migrate", "--app", "machine", "--url", url]
    planned = run(tmp_path, *common, "--plan")
    assert planned.returncode == 0, planned.stderr
    assert "recipe: add column note VARCHAR; existing rows get no value" in planned.stdout
    done = run(tmp_path, *common)
    assert "recipe: added column note" in done.stdout
    assert "-before-migration-" in done.stdout
    (tmp_path / "machine.py").write_text(MACHINE.replace("note: str | None = None", "note: str"))
    refused = run(tmp_path, *common, "--plan")
    assert refused.returncode == 1
    assert "recipe.note: is optional, in the model required" in refused.stdout


def test_the_command_needs_to_know_the_models():
    result = CliRunner().invoke(vstorage, ["migrate", "--plan"])
    assert result.exit_code == 2
    assert "Missing option '--app'" in result.output


# An application with an Alembic directory of its own

ENV = """
from alembic import context
from vstorage_core import Storage
from vstorage_migrate import alembic_options
import machine

with Storage() as storage, storage.engine.connect() as connection:
    context.configure(connection, **alembic_options(storage, connection))
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
"""

RELEASE = f"""
from pathlib import Path
from alembic.config import main

main(["init", "revisions"])
Path("revisions/env.py").write_text({ENV!r})
main(["revision", "--autogenerate", "-m", "change recipe", "--rev-id", "1"])
[revision] = Path("revisions/versions").glob("*.py")
assert "sqlmodel" not in revision.read_text()
# The person's part: what existing rows get.
revision.write_text(revision.read_text().replace("nullable=False)", "nullable=False, server_default='1')"))
main(["upgrade", "head"])
main(["check"])
"""


@pytest.mark.parametrize("engine", ["sqlite", "postgresql", "mariadb"])
def test_an_alembic_directory_makes_the_changes_that_are_refused(
    engine, make_database, first, tmp_path, monkeypatch, open_storage
):
    url = make_database(engine)
    monkeypatch.setenv("VSTORAGE_DATABASE_URL", url)
    first(url)
    (tmp_path / "machine.py").write_text(MACHINE.replace("max_length=40", "max_length=20") + "    batch: int = 1\n")

    (tmp_path / "release.py").write_text(RELEASE)
    done = run(tmp_path, "release")
    assert done.returncode == 0, done.stderr
    assert "No new upgrade operations detected" in done.stdout
    with open_storage(url) as storage, storage.reading_connection() as connection:
        assert connection.execute(text("SELECT name, batch FROM recipe ORDER BY id")).all() == [
            ("water", 1),
            ("juice", 1),
            ("milk", 1),
        ]
