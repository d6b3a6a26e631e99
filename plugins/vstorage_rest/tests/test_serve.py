"""`vstorage serve`, as the installed command in a process of its own."""

import os
import re
import signal
import socket
import sqlite3
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner

from vstorage_cli.main import vstorage

COMMAND = Path(sys.executable).with_name("vstorage")

MODELS = """
from sqlmodel import Field, SQLModel

class Station(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str

class Link(SQLModel, table=True):
    station_id: int = Field(primary_key=True)
    other_id: int = Field(primary_key=True)
"""

ACCESSORS = """
from models_only import Station
from vstorage_core import ModelAccessor

stations = ModelAccessor(Station, "stations")

@stations.before_insert()
def refuse_rust(instance):
    if instance.name == "rust":
        raise ValueError("no rust")
"""

PLAIN_APP = """
from fastapi import FastAPI
from accessors_only import stations

app = FastAPI(title="Mine")

@app.get("/mine")
def mine():
    return "mine"
"""

BOOTSTRAPPED = """
from vstorage_core import bootstrap
from plain_app import app, stations

bootstrap(app, accessors=[stations], max_records_per_model=1)
"""

OWN_DATABASE = """
from fastapi import FastAPI
from accessors_only import stations
from vstorage_core import bootstrap

def create_app():
    app = FastAPI()
    bootstrap(app, accessors=[stations], database_url="sqlite:///own.db")
    return app
"""

STOPS_BADLY = """
from contextlib import asynccontextmanager
from fastapi import FastAPI
from accessors_only import stations

@asynccontextmanager
async def lifespan(app):
    raise RuntimeError("no coolant")
    yield

app = FastAPI(lifespan=lifespan)
"""


@pytest.fixture
def folder(tmp_path):
    for name, source in {
        "models_only": MODELS,
        "accessors_only": ACCESSORS,
        "plain_app": PLAIN_APP,
        "bootstrapped": BOOTSTRAPPED,
        "own_database": OWN_DATABASE,
        "stops_badly": STOPS_BADLY,
        "broken": "import json\nanswer = 1 / 0\n",
        "incomplete": "import pump\n",
        "empty": "",
        "factories": "def greedy(url): ...\ndef failing(): {}['pump']\n",
        "two_apps": "from fastapi import FastAPI\nfirst = FastAPI()\nsecond = FastAPI()\n",
    }.items():
        (tmp_path / f"{name}.py").write_text(source)
    return tmp_path


@pytest.fixture
def start(folder):
    """Starts `vstorage serve` and gives the process."""
    started = []

    def start_(*arguments):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("VSTORAGE_")}
        process = subprocess.Popen(
            [COMMAND, "serve", *arguments],
            cwd=folder,
            env={**kept, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start_
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def serve(start):
    """Starts `vstorage serve` on a free port and gives the process, a client and what was printed."""
    clients = []

    def serve_(*arguments):
        process = start("--port", "0", *arguments)
        printed = []
        for line in process.stdout:
            printed.append(line)
            if line == "Ctrl-C stops.\n":
                break
        else:
            pytest.fail(process.stderr.read())
        text = "".join(printed)
        address = re.search(r"(http://\S+)/docs", text)[1]
        clients.append(httpx.Client(base_url=address, headers={"X-User": "ana"}, trust_env=False))
        return process, clients[-1], text

    yield serve_
    for client in clients:
        client.close()


def stop(process, number=signal.SIGINT):
    process.send_signal(number)
    process.communicate(timeout=30)
    return process.returncode


def test_a_module_of_table_models_is_served_under_the_names_of_the_tables(serve, folder):
    process, client, text = serve("models_only")
    assert client.post("/station/", json={"name": "Filler"}).status_code == 201
    assert client.get("/station/1").json()["name"] == "Filler"
    assert client.get("/openapi.json").json()["info"]["title"] == "models_only"
    assert "/station/ " in text
    assert f"Serving sqlite:///{folder}/storage.db." in text
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert "Not served: Link has the composite key (station_id, other_id)" in errors


@pytest.mark.parametrize("target", ["accessors_only", "accessors_only:stations"])
def test_accessors_are_served_with_their_hooks_on_the_database_of_the_url(serve, folder, target):
    _, client, _ = serve(target, "--url", "sqlite:///machine.db")
    assert client.post("/stations/", json={"name": "Filler"}).status_code == 201
    assert client.post("/stations/", json={"name": "rust"}).status_code == 422
    assert client.get("/station/").status_code == 404
    with sqlite3.connect(folder / "machine.db") as database:
        assert database.execute("SELECT actor FROM auditlog").fetchall() == [("ana",)]
    database.close()


def test_an_application_gets_the_accessors_of_its_module_and_keeps_its_own_routes(serve):
    _, client, _ = serve("plain_app")
    assert client.get("/mine").json() == "mine"
    assert client.get("/stations/").json() == []


def test_an_application_that_is_bootstrapped_already_is_served_as_it_is(serve, folder):
    _, client, _ = serve("bootstrapped:app", "--url", "sqlite:///machine.db")
    assert client.get("/mine").json() == "mine"
    answers = [client.post("/stations/", json={"name": "Filler"}).status_code for _ in range(2)]
    assert answers[0] == 201
    assert answers[1] >= 400
    assert (folder / "machine.db").exists()


def test_a_factory_is_called(serve, folder):
    _, client, text = serve("own_database:create_app")
    assert client.get("/stations/").json() == []
    assert f"Serving sqlite:///{folder}/own.db." in text


def test_max_records_limits_what_clients_create(serve):
    _, client, _ = serve("accessors_only", "--max-records", "2")
    answers = [client.post("/stations/", json={"name": "Filler"}).status_code for _ in range(3)]
    assert answers[:2] == [201, 201]
    assert answers[2] >= 400


def test_without_max_records_clients_create_any_number(serve):
    _, client, _ = serve("accessors_only")
    assert {client.post("/stations/", json={"name": "Filler"}).status_code for _ in range(7)} == {201}


def test_the_printed_addresses_answer(serve):
    _, client, text = serve("accessors_only")
    addresses = re.findall(r"http://\S+", text)
    assert len(addresses) >= 4
    assert {address: client.get(address).status_code for address in addresses} == dict.fromkeys(addresses, 200)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_ends_with_0_and_closes_the_database(serve, folder, number):
    process, client, _ = serve("accessors_only")
    client.post("/stations/", json={"name": "Filler"})
    assert (folder / "storage.db-wal").exists()
    assert stop(process, number) == 0
    assert sorted(path.name for path in folder.glob("storage.db*")) == ["storage.db"]


def test_a_taken_port_is_named(start):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        process = start("accessors_only", "--port", port)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"Error: cannot listen on 127.0.0.1, port {port}: " in errors
    assert "choose another with --port" in errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nowhere"], 2, "Error: there is no module 'nowhere', neither in "),
        (["broken.py"], 2, "Error: broken.py is a file; give the name of the module: broken"),
        (["broken"], 2, "Error: module 'broken' cannot be imported: ZeroDivisionError: division by zero ("),
        (["broken"], 2, "broken.py, line 2)"),
        (
            ["incomplete"],
            2,
            "Error: module 'incomplete' cannot be imported: ModuleNotFoundError: No module named 'pump'",
        ),
        (["empty"], 2, "Error: empty has nothing to work with; it needs accessors, table models, a FastAPI"),
        (["empty:pumps"], 2, "Error: module 'empty' has no attribute 'pumps'; what could be named: nothing"),
        (["two_apps:third"], 2, "what could be named: first, second"),
        (["two_apps"], 2, "Error: two_apps has 2 web applications; name one after a colon"),
        (["two_apps:first"], 2, "Error: two_apps:first has neither accessors nor table models to serve"),
        (["factories:greedy"], 2, "Error: factories:greedy needs url; only a function without arguments can be called"),
        (["factories:failing"], 2, "Error: factories:failing() fails with KeyError: 'pump'"),
        (["empty", "--url", "nonsense"], 2, "Error: 'nonsense' is not a database URL"),
        (["empty", "--port", "70000"], 2, "Error: Invalid value for '--port'"),
        (["empty", "--host", "256.1.1.1"], 1, "Error: cannot listen on 256.1.1.1, port 0"),
    ],
)
def test_what_cannot_be_served_is_answered_with_a_sentence(folder, monkeypatch, arguments, code, sentence):
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, arguments[0].partition(":")[0], raising=False)
    done = CliRunner().invoke(vstorage, ["serve", "--port", "0", *arguments])
    assert sentence in done.stderr
    assert done.exit_code == code


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["own_database:create_app", "--url", "sqlite:///x.db"], 2, "opens a database of its own, sqlite:///"),
        (["bootstrapped", "--max-records", "3"], 2, "Error: bootstrapped calls bootstrap itself; give max_records"),
        (["stops_badly"], 1, "RuntimeError: no coolant"),
    ],
)
def test_an_application_that_cannot_be_served_is_answered_with_a_sentence(start, arguments, code, sentence):
    process = start("--port", "0", *arguments)
    _, errors = process.communicate(timeout=30)
    assert sentence in errors
    assert process.returncode == code
    assert errors.splitlines()[-1].startswith("Error: ")
