"""Backup and restore as the web API serves them."""

import hashlib
import importlib.metadata
import threading

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from models import User

from vstorage_core import ModelAccessor, bootstrap
from vstorage_core.audit import AUDIT_TABLE

PLUGINS = [
    importlib.metadata.EntryPoint(name=name, value=f"vstorage_{name}.plugin", group="vstorage.plugins")
    for name in ("backup", "rest")
]


@pytest.fixture
def storage(make_database, open_storage):
    return open_storage(make_database("sqlite"), entry_points=PLUGINS)


@pytest.fixture
def users(storage):
    return ModelAccessor(User, "users", storage=storage)


@pytest.fixture
def client(storage, users):
    app = FastAPI()
    bootstrap(app, accessors=[users], storage=storage)
    return TestClient(app, base_url="http://localhost", client=("127.0.0.1", 50000), headers={"X-User": "ana"})


@pytest.fixture
def backup(client, users):
    """A backup with one user, of a machine that has two by now."""
    users.insert(User(name="ana", email="ana@x"))
    answer = client.get("/db/backup.sqlite")
    assert answer.status_code == 200
    users.insert(User(name="ben", email="ben@x"))
    return answer.content


def upload(content):
    return {"file": ("backup.sqlite", content, "application/x-sqlite3")}


def test_a_backup_is_downloaded_as_a_file(client):
    answer = client.get("/db/backup.sqlite")
    assert answer.headers["content-type"] == "application/vnd.sqlite3"
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert answer.content.startswith(b"SQLite format 3\0")


def test_a_restore_answers_with_the_report_and_is_blamed_on_the_caller(client, storage, users, backup):
    # The call of the original's README.
    answer = client.post("/db/restore", files=upload(backup), params={"integrity_check": True, "dry_run": False})
    assert answer.status_code == 200
    report = answer.json()
    assert report["restored"] is True
    assert report["tables"]["users"] == {"rows_before": 2, "rows_after": 1, "rows_lost": 1}
    assert report["sha256"] == hashlib.sha256(backup).hexdigest()
    assert [user.name for user in users.all()] == ["ana"]
    with storage.snapshot() as connection:
        row = connection.execute(AUDIT_TABLE.select().where(AUDIT_TABLE.c.operation == "replace")).one()
    assert (row.actor, row.record_id) == ("ana", report["sha256"])


def test_a_dry_run_only_tells(client, users, backup):
    report = client.post("/db/restore", files=upload(backup), params={"dry_run": True}).json()
    assert report["restored"] is False
    assert users.count() == 2


def test_a_refused_file_is_422_with_a_sentence(client, users):
    answer = client.post("/db/restore", files=upload(b"no database"))
    assert answer.status_code == 422
    assert answer.json()["detail"] == "the file is not an SQLite database, or it is encrypted"


def test_a_second_restore_at_the_same_time_is_409(client, storage, backup, blocked):
    stream = blocked(backup)
    first = threading.Thread(target=storage.import_, args=["restore", stream])
    first.start()
    assert stream.reached.wait(10)
    answer = client.post("/db/restore", files=upload(backup))
    stream.go_on.set()
    first.join()
    assert answer.status_code == 409
    assert "another restore of this database is running" in answer.json()["detail"]
