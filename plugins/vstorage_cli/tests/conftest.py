"""The installed `vstorage` command in a process of its own, plugins made for a test, and a small machine."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from sqlmodel import SQLModel

from vstorage_cli.main import vstorage

COMMAND = Path(sys.executable).with_name("vstorage")

MACHINE = """
from sqlmodel import Field, SQLModel
from vstorage_core import ModelAccessor

class Station(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str

class Recipe(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str
    station_id: int = Field(foreign_key="station.id")

stations = ModelAccessor(Station, "stations")
recipes = ModelAccessor(Recipe, "recipes")
"""

SEED = """
import machine
from vstorage_core import bootstrap
with bootstrap(accessors=[machine.stations, machine.recipes], database_url="sqlite:///machine.db"):
    filler = machine.stations.insert(machine.Station(name="Filler"))
    machine.recipes.insert_many([machine.Recipe(name=name, station_id=filler.id) for name in ("Water", "Juice")])
"""

# Every kind of option, every way to fail, and an importer.
ACME = """
import json
import os
import signal
import sys
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, Optional

from pydantic import BaseModel, ConfigDict, Field, model_validator

from vstorage_core import Exporter, HealthCheck, Importer, ImportRefused, StorageError, hookimpl, report_progress
from vstorage_core.audit import current_provenance


class Paper(Enum):
    LETTER = "letter"
    A4 = "a4"


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: str = Field(default="plain", min_length=1, description="What to say")
    whole: int = Field(default=3, ge=1, le=9)
    ratio: float = 0.5
    loud: bool = False
    shown: bool = True
    color: Literal["red", "blue"] = "red"
    separator: Literal[",", "\\t"] = ","
    paper: Paper = Paper.A4
    names: list[str] = []
    sizes: Optional[list[int]] = None
    marks: set[int] = Field(default_factory=set)
    folder: Optional[Path] = None
    maybe: Annotated[int, Field(ge=0)] | None = None
    url: str = "none"
    fail: Literal["crash", "sentence", "wait", "slow"] | None = None

    @model_validator(mode="after")
    def _fits(self):
        if self.text == "loud" and not self.loud:
            raise ValueError("a loud text must be loud")
        return self


def write(storage, stream, options):
    if options.fail:
        stream.write(b"half")
    if options.fail == "crash":
        raise KeyError("lost")
    if options.fail == "sentence":
        raise StorageError("the printer is out of paper")
    if options.fail == "wait":
        stream.flush()
        print("waiting", file=sys.stderr, flush=True)
        signal.pause()
    for done in range(1, 4):
        report_progress("pages", done, 3)
    values = {name: repr(value) for name, value in options if name in options.model_fields_set}
    tables = [table.name for table in storage.tables()]
    stream.write(json.dumps({"options": values, "tables": tables}).encode())


class Report(BaseModel):
    size: int
    first_time: bool
    actor: str
    actor_source: str | None
    tables: dict[str, dict[str, int]] = {"station": {"create": 2, "update": 10}, "recipe": {"create": 1, "update": 0}}
    notes: list[dict[str, Any]] = [
        {"line": 7, "text": "odd \\x1b[31m name", "changes": [{"before": 1.5, "after": None}], "file": "a,b\\nc,d\\n"},
        {"line": 123, "text": ["x", "y"], "changes": []},
    ]
    problems: list[str] = []


class ImportOptions(BaseModel):
    mode: Literal["insert", "upsert"] = "insert"


def read(storage, stream, options):
    content = stream.read()
    stream.seek(0)
    assert stream.read() == content
    if content.startswith(b"bad"):
        rows = [{"line": line, "column": "name", "reason": "too long"} for line in range(1, 31)]
        raise ImportRefused("30 rows cannot be imported", rows)
    provenance = current_provenance()
    tables = {table.name: {"create": 0} for table in storage.tables()}
    return Report(
        size=len(content), first_time=True, actor=provenance.actor, actor_source=provenance.actor_source,
        **({"tables": tables} if options.mode == "upsert" else {}),
    )


def ask(storage):
    if os.environ.get("ACME") == "ill":
        raise StorageError("the printer is ill")
    if os.environ.get("ACME") == "crash":
        raise ZeroDivisionError("secret")
    return {"pages_left": 12}


@hookimpl
def vstorage_register_exporters():
    yield Exporter(name="acme", filename="acme.json", media_type="application/json", write=write, options=Options,
                   summary="Print what was asked for")


@hookimpl
def vstorage_register_importers():
    yield Importer(name="acme", path="acme", read=read, options=ImportOptions, summary="Count the bytes")


@hookimpl
def vstorage_register_health_checks():
    yield HealthCheck(name="printer", check=ask)
"""


def _install(folder: Path, name: str, source: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}_plugin.py").write_text(source)
    info = folder / f"{name}_dist-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}-dist\nVersion: 1.5\n")
    (info / "entry_points.txt").write_text(f"[vstorage.plugins]\n{name} = {name}_plugin\n")


@pytest.fixture
def plugin_folder(tmp_path: Path) -> Path:
    """Where the plugins of a test are installed; the plugin `acme` already is."""
    folder = tmp_path / "site"
    _install(folder, "acme", ACME)
    return folder


@pytest.fixture
def install(plugin_folder: Path) -> Callable[[str, str], None]:
    """Installs a plugin of one module, `<name>_plugin`, version 1.5, as pip would."""
    return functools.partial(_install, plugin_folder)


@pytest.fixture
def environment(plugin_folder: Path) -> dict[str, str]:
    """The environment of the command."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("VSTORAGE_")}
    return {**kept, "PYTHONPATH": str(plugin_folder), "LOGNAME": "ana", "COLUMNS": "100"}


@pytest.fixture(scope="session")
def seeded_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("seeded")
    (folder / "machine.py").write_text(MACHINE)
    subprocess.run([sys.executable, "-c", SEED], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.fixture
def folder(tmp_path: Path, seeded_folder: Path) -> Path:
    """The current folder of the command, with `machine.py` and its database `machine.db`."""
    return shutil.copytree(seeded_folder, tmp_path / "machine", ignore=shutil.ignore_patterns("__pycache__"))


@pytest.fixture
def start(folder: Path, environment: dict[str, str]) -> Callable[..., subprocess.Popen[str]]:
    """Starts `vstorage` in the folder, with more arguments for `Popen`."""

    def start_(*arguments: str, **options: Any) -> subprocess.Popen[str]:
        return subprocess.Popen([COMMAND, *arguments], cwd=folder, env=environment, text=True, **options)

    return start_


@pytest.fixture
def run(folder: Path, environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs `vstorage` in the folder."""

    def run_(
        *arguments: object, input: str = "", timeout_seconds: float = 60, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *map(str, arguments)],
            cwd=folder,
            env={**environment, **variables},
            input=input,
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
        )

    return run_


@pytest.fixture
def invoke(
    folder: Path, plugin_folder: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Result]]:
    """Runs `vstorage` in this process, which is quicker; for what imports no models."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(plugin_folder)
    for name in list(sys.modules):
        if name.endswith("_plugin"):
            monkeypatch.delitem(sys.modules, name)
    known = set(SQLModel.metadata.tables)

    def invoke_(*arguments: object, **variables: str) -> Result:
        return CliRunner().invoke(vstorage, list(map(str, arguments)), env={**environment, **variables})

    yield invoke_
    for name in set(SQLModel.metadata.tables) - known:
        SQLModel.metadata.remove(SQLModel.metadata.tables[name])
