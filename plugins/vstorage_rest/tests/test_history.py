"""A record's past: its trail, how it was, and back to it."""

import re
from itertools import pairwise

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from models import Counter

from vstorage_core import ModelAccessor
from vstorage_rest import build_crud_router


@pytest.fixture
def components():
    return ["users", "counters", "samples"]


@pytest.fixture
def changed(any_machine):
    """A client of a machine with a user that was created, changed twice and deleted."""
    client = any_machine.client
    client.post("/users/", json={"name": "A", "email": "a@x.com"})
    client.patch("/users/1", json={"name": "B"})
    client.patch("/users/1", json={"name": "C", "age": 3})
    client.post("/users/", json={"name": "Other", "email": "o@x.com"})
    client.delete("/users/1")
    return client


def history(client, key=1, component="users"):
    return list(reversed(client.get(f"/{component}/{key}/history").json()))


def test_the_history_is_the_trail_of_this_record_alone_newest_first(changed):
    rows = changed.get("/users/1/history").json()
    assert [row["operation"] for row in rows] == ["soft_delete", "update", "update", "create"]
    assert all(newer["before"] == older["after"] for newer, older in pairwise(rows))
    assert changed.get("/users/99/history").json() == []


def test_the_history_is_filtered_and_paged_like_the_trail(changed):
    page = changed.get("/users/1/history", params={"limit": 3, "count": True})
    assert (len(page.json()), page.headers["x-total-count"]) == (3, "4")
    rest = changed.get(re.search("<([^>]*)>", page.headers["link"])[1])
    assert [row["operation"] for row in rest.json()] == ["create"]
    assert len(changed.get("/users/1/history", params={"operation": "update"}).json()) == 2


def test_a_record_is_read_as_it_was_at_any_time(changed):
    created, first, second, deleted = history(changed)
    names = [
        changed.get("/users/1", params={"as_of": row["timestamp"]}).json()["name"] for row in (created, first, second)
    ]
    assert names == ["A", "B", "C"]
    for parameters in ({"as_of": "2020-01-01T00:00:00Z"}, {"as_of": deleted["timestamp"]}):
        answer = changed.get("/users/1", params=parameters)
        assert (answer.status_code, answer.json()) == (404, {"detail": "Not found at that time"})
    gone = changed.get("/users/1", params={"as_of": deleted["timestamp"], "include_deleted": True})
    assert gone.json()["deleted_at"] is not None
    assert changed.get("/users/1", params={"as_of": "soon"}).status_code == 422


def test_reverting_makes_the_record_what_it_was_and_is_a_change_of_its_own(changed):
    changed.post("/users/1/restore")
    created, first, *_ = history(changed)
    answer = changed.post("/users/1/revert", json={"audit_id": first["id"]})
    assert (answer.status_code, answer.json()) == (200, first["after"])
    assert answer.headers["etag"] == changed.get("/users/1").headers["etag"]
    latest = history(changed)[-1]
    assert (latest["operation"], latest["after"]) == ("update", first["after"])
    changed.post("/users/1/revert", json={"audit_id": created["id"]}, headers={"X-User": "ben"})
    assert (history(changed)[-1]["actor"], changed.get("/users/1").json()["name"]) == ("ben", "A")


def test_reverting_a_soft_deleted_record_restores_it(changed):
    second = history(changed)[2]
    assert changed.post("/users/1/revert", json={"audit_id": second["id"]}).json() == second["after"]
    assert [row["operation"] for row in history(changed)][-1] == "restore"


def test_reverting_a_hard_deleted_record_creates_it_again_under_its_key(client):
    client.post("/samples/", json={"price": "3.50", "raw": "AP_-", "settings": {"a": [1]}, "duration": "PT5S"})
    before = client.get("/samples/1")
    client.delete("/samples/1")
    created = history(client, component="samples")[0]
    answer = client.post("/samples/1/revert", json={"audit_id": created["id"]})
    assert (answer.json(), answer.headers["etag"]) == (before.json(), before.headers["etag"])


def test_a_revert_that_leads_nowhere_is_refused(changed):
    deleted = history(changed)[-1]
    other = history(changed, key=2)[0]
    for audit_id, status in ((deleted["id"], 409), (other["id"], 404), (999, 404)):
        assert changed.post("/users/1/revert", json={"audit_id": audit_id}).status_code == status
    for body in ({}, {"audit_id": "1"}, {"audit_id": -1}, {"audit_id": 1, "x": 1}):
        assert changed.post("/users/1/revert", json=body).status_code == 422


def test_a_revert_is_checked_by_hooks_and_preconditions(machine):
    client = machine.client
    client.post("/counters/", json={"value": 1})
    stale = client.get("/counters/1").headers["etag"]
    client.patch("/counters/1", json={"value": 2})
    created = history(client, component="counters")[0]
    body = {"audit_id": created["id"]}
    assert client.post("/counters/1/revert", json=body, headers={"If-Match": stale}).status_code == 412

    @machine.counters.before_update()
    def refuse_counting_down(instance, before):
        if instance.value < before["value"]:
            raise ValueError("counts are never taken back")

    answer = client.post("/counters/1/revert", json=body)
    assert (answer.status_code, answer.json()) == (422, {"detail": "counts are never taken back"})
    assert machine.counters.get(1).value == 2


def test_a_component_without_an_audit_trail_has_no_history(open_storage, make_database):
    app = FastAPI()
    storage = open_storage(make_database("sqlite"))
    app.include_router(build_crud_router(ModelAccessor(Counter, "counters", storage=storage, audited=False)))
    paths = TestClient(app).get("/openapi.json").json()["paths"]
    assert set(paths) == {"/counters/", "/counters/batch", "/counters/{record_id}", "/counters/{record_id}/restore"}
