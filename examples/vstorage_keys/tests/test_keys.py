"""The example plugin, as its author would test it."""

import importlib.metadata
import json
import os

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from models import Counter, User

from vstorage_core import ConfigurationError, ModelAccessor, bootstrap
from vstorage_keys.__main__ import main
from vstorage_keys.keyring import digest_of

ROLES = {
    "operator": ["records.read", "records.write:counters"],
    "engineer": ["records.*", "db.*"],
    "service": ["db.backup"],
    "nobody": [],
}
PLUGINS = [
    importlib.metadata.EntryPoint(name="keys", value="vstorage_keys.plugin", group="vstorage.plugins"),
    importlib.metadata.EntryPoint(name="rest", value="vstorage_rest.plugin", group="vstorage.plugins"),
    importlib.metadata.EntryPoint(name="backup", value="vstorage_backup.plugin", group="vstorage.plugins"),
    importlib.metadata.EntryPoint(name="csv", value="vstorage_csv.plugin", group="vstorage.plugins"),
]
ANA = {"name": "Ana", "email": "a@x"}


@pytest.fixture
def key_file(tmp_path):
    """A file in which each role has a key that is called like it."""
    path = tmp_path / "keys.json"
    write(path, list(ROLES))
    return path


def write(path, names):
    keys = [{"name": name, "role": name, "sha256": digest_of(f"secret of {name}")} for name in names]
    path.write_text(json.dumps({"roles": ROLES, "keys": keys}))


@pytest.fixture
def open_machine(make_database, open_storage):
    def open_(**keys):
        storage = open_storage(make_database("sqlite"), entry_points=PLUGINS, config={"keys": keys})
        app = FastAPI()
        accessors = [ModelAccessor(Counter, "counters", storage=storage), ModelAccessor(User, "users", storage=storage)]
        bootstrap(app, accessors=accessors, storage=storage)
        return app

    return open_


@pytest.fixture
def call(open_machine, key_file):
    """A client of the machine by the name of its key, from another computer."""
    app = open_machine(file=key_file)

    def client(name):
        headers = {"X-User": "a label"} if name is None else {"X-API-Key": f"secret of {name}"}
        return TestClient(app, client=("10.0.0.9", 1), headers=headers)

    return client


def test_each_key_may_do_what_its_role_permits(call):
    operator, engineer, nobody = call("operator"), call("engineer"), call("nobody")
    assert operator.post("/counters/", json={}).status_code == 201
    assert (operator.get("/users/").status_code, operator.post("/users/", json=ANA).status_code) == (200, 403)
    assert operator.get("/db/audit").status_code == 403
    assert engineer.post("/users/", json=ANA).status_code == 201
    rows = engineer.get("/db/audit").json()
    assert [(row["actor"], row["actor_source"]) for row in rows] == [("engineer", "keys"), ("operator", "keys")]
    assert nobody.get("/counters/").status_code == 403


def test_a_key_that_takes_backups_can_neither_read_records_nor_put_a_backup_back(call):
    service = call("service")
    backup = service.get("/db/backup.sqlite")
    assert backup.status_code == 200
    assert (service.get("/counters/").status_code, service.get("/db/export.zip").status_code) == (403, 403)
    refused = service.post("/db/restore", files={"file": ("backup", backup.content)})
    assert (refused.status_code, refused.json()["detail"]) == (403, "service may not do db.restore on restore")
    assert call("engineer").post("/db/restore", files={"file": ("backup", backup.content)}).status_code == 200


@pytest.mark.parametrize("name", [None, "a stranger"])
def test_without_a_known_key_nothing_but_health_is_answered(call, name):
    client = call(name)
    assert client.get("/counters/").status_code == client.post("/counters/", json={}).status_code == 401
    assert client.get("/db/audit").status_code == 401
    assert client.get("/db/health").status_code == 200


def test_a_key_that_is_taken_out_of_the_file_is_refused_at_once(call, key_file):
    client = call("operator")
    assert client.get("/counters/").status_code == 200
    write(key_file, ["engineer"])
    os.utime(key_file, (1, 1))
    assert client.get("/counters/").status_code == 401
    assert call("engineer").get("/counters/").status_code == 200


def test_a_file_that_is_broken_later_leaves_the_keys_as_they_were(call, key_file, caplog):
    key_file.write_text("{")
    os.utime(key_file, (1, 1))
    assert call("operator").get("/counters/").status_code == 200
    assert "the keys before stay in force" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        ("{", "is not valid"),
        ('{"roles": {}, "keys": [{"name": "a", "role": "x", "sha256": "%s"}]}' % ("0" * 64), "no such role: x"),
    ],
)
def test_a_machine_does_not_start_without_its_keys(open_machine, tmp_path, content, message):
    path = tmp_path / "keys.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=message):
        open_machine(file=path)


def test_a_machine_does_not_start_when_nobody_named_the_file(open_machine):
    with pytest.raises(ConfigurationError, match=r"'keys'.*file"):
        open_machine()


def test_a_new_key_is_printed_with_its_entry_for_the_file(capsys):
    main("ana", "operator")
    key, entry = (line.split(": ", 1)[1] for line in capsys.readouterr().out.splitlines())
    assert json.loads(entry) == {"name": "ana", "role": "operator", "sha256": digest_of(key)}
