"""The example plugin, as its author would test it."""

import io

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from models import Counter, User

import vstorage_hello.plugin
from vstorage_core import ModelAccessor, bootstrap


@pytest.fixture
def storage(make_database, open_storage):
    return open_storage(make_database("sqlite"), plugins=[vstorage_hello.plugin])


def test_the_exporter_greets_every_table_with_its_number_of_rows(storage):
    ModelAccessor(Counter, "counters", storage=storage).insert_many([Counter(), Counter()])
    target = io.BytesIO()
    storage.export("hello", target, greeting="Hi")
    assert "Hi, counter! You have 2 rows." in target.getvalue().decode().splitlines()


def test_a_machine_has_its_own_greeting(make_database, open_storage, monkeypatch):
    monkeypatch.setenv("VSTORAGE_HELLO__GREETING", "Moin")
    target = io.BytesIO()
    open_storage(make_database("sqlite"), plugins=[vstorage_hello.plugin]).export("hello", target)
    assert target.getvalue().startswith(b"Moin, ")


def test_a_rude_name_is_refused_and_nothing_is_stored(storage):
    users = ModelAccessor(User, "users", storage=storage)
    with pytest.raises(ValueError, match="that name is rude"):
        users.insert(User(name="Blockhead", email="b@example.com"))
    assert users.count() == 0


def test_the_route_names_the_components(storage):
    app = FastAPI()
    bootstrap(app, accessors=[ModelAccessor(Counter, "counters", storage=storage)], storage=storage)
    assert TestClient(app).get("/hello").json() == {"hello": ["counters"]}
