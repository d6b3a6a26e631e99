"""A machine's web API for the tests: in process, and behind a real server."""

import importlib.metadata
import socket
import threading
from contextlib import contextmanager

import pytest
import uvicorn
from fastapi import FastAPI
from fastapi.testclient import TestClient
from models import Counter, Device, Sample, Ticket, User

from vstorage_core import ModelAccessor, bootstrap

MODELS = {"users": User, "counters": Counter, "devices": Device, "tickets": Ticket, "samples": Sample}
ACTOR = {"X-User": "ana"}
REST = importlib.metadata.EntryPoint(name="rest", value="vstorage_rest.plugin", group="vstorage.plugins")


class Machine:
    """An application on a storage: `machine.client` calls it in process, `machine.users` are its accessors."""

    def __init__(self, storage, accessors, app):
        self.storage = storage
        self.accessors = accessors
        self.app = app
        self.client = self.caller()

    def __getattr__(self, name):
        return self.accessors[name]

    def caller(self, address="127.0.0.1", host="localhost", **headers):
        """A client of its own, as if it came from that address and named that host."""
        return TestClient(self.app, base_url=f"http://{host}", client=(address, 50000), headers={**ACTOR, **headers})

    @contextmanager
    def served(self):
        """The application behind a real server; gives its address."""
        with serve(self.app) as address:
            yield address


@contextmanager
def serve(app):
    started = threading.Event()

    class Server(uvicorn.Server):
        async def startup(self, sockets=None):
            await super().startup(sockets)
            started.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(uvicorn.Config(app, log_level="warning", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        assert started.wait(10)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture
def components():
    """Components of the machines; a module that needs few is faster with few."""
    return list(MODELS)


@pytest.fixture
def open_machine(open_storage, components):
    """Makes a machine on a database URL, with plugins and settings of the test's choice."""

    def open_(url, *, plugins=(), config=None, models=None, **options):
        models = models or {name: MODELS[name] for name in components}
        storage = open_storage(url, entry_points=[REST], plugins=plugins, config=config)
        accessors = {name: ModelAccessor(model, name, storage=storage) for name, model in models.items()}
        app = FastAPI()
        bootstrap(app, accessors=accessors.values(), storage=storage, **{"max_records_per_model": None, **options})
        return Machine(storage, accessors, app)

    return open_


@pytest.fixture
def machine(open_machine, make_database):
    """A machine on an SQLite file."""
    return open_machine(make_database("sqlite"))


@pytest.fixture
def any_machine(open_machine, database_url):
    """A machine; the test runs once per engine."""
    return open_machine(database_url)


@pytest.fixture
def client(machine):
    return machine.client


@pytest.fixture
def ana(client):
    """A stored user, as the API answered it."""
    return client.post("/users/", json={"name": "Ana", "email": "ana@example.com"}).json()
