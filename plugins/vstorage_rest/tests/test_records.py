"""Records over HTTP: every route of the original and what its users had to do without."""

import uuid

import pytest
from models import User

ANA = {"name": "Ana", "email": "ana@example.com"}
STORED_ANA = {"id": 1, **ANA, "age": None, "deleted_at": None}


def test_creating_answers_201_with_the_record_its_place_and_its_etag(client):
    answer = client.post("/users/", json=ANA)
    assert (answer.status_code, answer.json()) == (201, STORED_ANA)
    assert answer.headers["location"] == "/users/1"
    assert client.get(answer.headers["location"]).headers["etag"] == answer.headers["etag"]


def test_a_collection_answers_without_its_last_slash_too(client, ana):
    assert client.get("/users").json() == client.get("/users/").json() == [STORED_ANA]
    assert client.post("/users", json={"name": "Ben", "email": "ben@example.com"}).status_code == 201


def test_getting_what_does_not_exist_is_404(client):
    answer = client.get("/users/7")
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not found"})


# FastAPI looks at what has an unknown parameter or a charset; the other requests take a shortcut.
WAYS = [("", "application/json"), ("?x=1", "application/json; charset=utf-8")]
BODIES = [
    b'{"name": 5, "email": "ben@example.com"}',
    b'{"name": "Ben", "email": "ben@example.com", "nothing": 1}',
    b'{"name": "Ben", "email": "ben@example.com", "age": NaN}',
    b'{"name": "a\\u0000", "email": "\\ud800"}',
    b'{"name": "Ben"', b"", b"{}", b"[]", b"null", b"\xff", b"[" * 100_000,
    b'{"name": "Ben", "email": "ben@example.com", "deleted_at": null}',
    b'{"name": "Ben", "email": "ben@example.com"}',
]  # fmt: skip


@pytest.mark.parametrize(("method", "path"), [
    ("POST", "/users/"), ("PUT", "/users/1"), ("PUT", "/users/7"), ("PUT", "/users/x"),
    ("PATCH", "/users/1"), ("PATCH", "/users/7"), ("PATCH", "/users/x"),
])  # fmt: skip
def test_plain_requests_are_answered_and_audited_as_those_that_fastapi_looks_at(
    open_machine, make_database, method, path
):
    seen = []
    for query, media_type in WAYS:
        machine = open_machine(make_database("sqlite"))
        machine.users.insert(User(**ANA))
        answers = []
        for body in BODIES:
            headers = {"Content-Type": media_type}
            answer = machine.client.request(method, f"{path}{query}", content=body, headers=headers)
            told = [answer.headers.get(name) for name in ("etag", "location", "content-type")]
            answers.append((answer.status_code, answer.json(), told))
        rows = machine.client.get("/db/audit").json()
        answers += [[row[name] for name in ("operation", "actor", "actor_source", "before", "after")] for row in rows]
        seen.append(answers)
    plain, looked_at = seen
    assert plain == looked_at


@pytest.mark.parametrize("headers", [{"X-User": ""}, {"X-User": "a\tb"}, {"Origin": "http://elsewhere"}])
def test_a_plain_request_of_somebody_who_may_not_is_refused(client, headers):
    for method, path in (("POST", "/users/"), ("PUT", "/users/1")):
        assert client.request(method, path, json=ANA, headers=headers).status_code in (400, 403)
    assert client.get("/users/").json() == []


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_the_fields_sent_replace_and_the_rest_stays(machine, client, method):
    client.post("/users/", json={**ANA, "age": 40})
    answer = client.request(method, "/users/1", json={"name": "Ana Smith"})
    assert (answer.status_code, answer.json()) == (200, {**STORED_ANA, "name": "Ana Smith", "age": 40})
    assert machine.users.get(1).age == 40


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_record_can_be_sent_back_as_it_was_read(client, ana, method):
    answer = client.request(method, "/users/1", json={**client.get("/users/1").json(), "age": 41})
    assert (answer.status_code, answer.json()["age"]) == (200, 41)


def test_put_creates_a_missing_record_under_its_key(client):
    answer = client.put("/users/7", json=ANA)
    assert (answer.status_code, answer.json()["id"], answer.headers["location"]) == (201, 7, "/users/7")
    assert client.put("/devices/A 1", json={"label": "x"}).json() == {"serial": "A 1", "label": "x"}


def test_put_of_a_missing_record_needs_every_required_field(client):
    answer = client.put("/users/7", json={"name": "Ana"})
    assert answer.status_code == 422
    assert answer.json() == {"detail": [{"type": "missing", "loc": ["body", "email"], "msg": "Field required"}]}


def test_put_with_if_none_match_only_creates(client, ana):
    assert client.put("/users/1", json=ANA, headers={"If-None-Match": "*"}).status_code == 412
    other = {"name": "Ben", "email": "ben@example.com"}
    assert client.put("/users/2", json=other, headers={"If-None-Match": "*"}).status_code == 201


def test_patch_never_creates(client):
    assert client.patch("/users/7", json=ANA).status_code == 404


def test_a_key_in_the_body_does_not_rename_a_record(client, ana):
    assert client.put("/users/1", json={"id": 9}).json()["id"] == 1
    assert client.get("/users/9").status_code == 404


def test_a_hard_deleted_record_is_gone(client):
    client.post("/counters/", json={"value": 3})
    answer = client.delete("/counters/1")
    assert (answer.status_code, answer.json()) == (200, {"status": "deleted"})
    assert client.get("/counters/1", params={"include_deleted": True}).status_code == 404
    assert client.delete("/counters/1").status_code == 404


def test_a_soft_deleted_record_is_hidden_until_it_is_asked_for(client, ana):
    assert client.delete("/users/1").json() == {"status": "deleted"}
    assert client.get("/users/1").status_code == 404
    assert client.get("/users/").json() == []
    assert client.get("/users/1", params={"include_deleted": True}).json()["deleted_at"] is not None
    assert len(client.get("/users/", params={"include_deleted": True}).json()) == 1


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_a_soft_deleted_record_is_not_written_to(machine, client, ana, method):
    client.delete("/users/1")
    before = machine.users.get(1, include_deleted=True)
    body = {} if method == "DELETE" else {"json": {"name": "Eve"}}
    answer = client.request(method, "/users/1", **body)
    assert (answer.status_code, answer.json()) == (404, {"detail": "Not found: it is deleted; restore it first"})
    assert machine.users.get(1, include_deleted=True) == before


def test_restoring_tells_whether_there_was_something_to_restore(client, ana):
    client.delete("/users/1")
    assert client.post("/users/1/restore").json() == {"status": "ok", "restored": True}
    assert client.post("/users/1/restore").json() == {"status": "ok", "restored": False}
    assert client.get("/users/1").json() == STORED_ANA
    assert client.post("/users/7/restore").status_code == 404


def test_restoring_without_soft_delete_is_409(client):
    answer = client.post("/counters/1/restore")
    assert (answer.status_code, answer.json()) == (
        409,
        {"detail": "counters does not support soft delete/restore"},
    )


def test_deleted_at_changes_by_deleting_only(client, ana):
    answer = client.patch("/users/1", json={"deleted_at": "2026-01-01T00:00:00Z"})
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["body", "deleted_at"])


SAMPLE = {
    "text": "größe 漢字 🙂",
    "number": 2**63 - 1,
    "ratio": 0.1,
    "flag": True,
    "price": "1234.50",
    "moment": "2026-11-24T06:30:00.123456Z",
    "day": "2026-02-28",
    "clock": "23:59:59.000001",
    "duration": "P1DT2H3M4.5S",
    "token": "12345678-1234-5678-1234-567812345678",
    "color": "b",
    "raw": "AP_-",
    "settings": {"nested": [1, 2.5, None, {"on": True}]},
}


def test_every_column_type_makes_the_round_trip_exactly(any_machine):
    client = any_machine.client
    created = client.post("/samples/", json=SAMPLE)
    assert (created.status_code, created.json()) == (201, {"id": 1, **SAMPLE})
    replaced = client.put("/samples/1", json=created.json())
    assert (replaced.status_code, replaced.json()) == (200, {"id": 1, **SAMPLE})
    read = client.get("/samples/1")
    assert (read.json(), read.headers["etag"]) == ({"id": 1, **SAMPLE}, created.headers["etag"])


def test_keys_of_any_type_address_records(any_machine):
    client = any_machine.client
    device = client.post("/devices/", json={"serial": "A/1 ü", "label": "press"})
    assert device.headers["location"] == "/devices/A%2F1%20%C3%BC"
    ticket = client.post("/tickets/", json={"title": "leak"}).json()
    assert client.patch(f"/tickets/{ticket['key']}", json={"title": "fixed"}).json()["title"] == "fixed"
    assert client.delete(f"/tickets/{ticket['key']}").status_code == 200
    assert client.get(f"/tickets/{uuid.uuid4()}").status_code == 404


def test_who_acted_stands_in_the_audit_trail(machine, client):
    client.post("/users/", json=ANA, headers={"X-User": "José".encode(), "X-Reason": "asked by phone"})
    row = client.get("/db/audit").json()[0]
    assert (row["actor"], row["actor_source"], row["reason"]) == ("José", "header", "asked by phone")
    assert (row["operation"], row["record_id"], row["before"], row["after"]) == ("create", 1, None, STORED_ANA)
    assert row["remote_address"] == "127.0.0.1"
    assert row["request_id"]


def test_the_request_id_of_a_client_is_kept(client):
    client.post("/users/", json=ANA, headers={"X-Request-Id": "job-17"})
    assert client.get("/db/audit").json()[0]["request_id"] == "job-17"


def test_excluded_fields_are_written_and_never_read(open_machine, make_database):
    from sqlmodel import Field, SQLModel

    class Account(SQLModel, table=True):
        __tablename__ = "rest_account"

        id: int | None = Field(default=None, primary_key=True)
        name: str
        password_hash: str = Field(exclude=True)

    machine = open_machine(make_database("sqlite"), models={"accounts": Account})
    client = machine.client
    created = client.post("/accounts/", json={"name": "ana", "password_hash": "x1"})
    assert created.json() == {"id": 1, "name": "ana"}
    changed = client.patch("/accounts/1", json={"password_hash": "x2"})
    assert changed.json() == {"id": 1, "name": "ana"}
    assert changed.headers["etag"] != created.headers["etag"]
    assert machine.accounts.get(1).password_hash == "x2"
    assert client.get("/accounts/", params={"password_hash__startswith": "x"}).status_code == 422
    assert client.get("/accounts/", params={"order_by": "password_hash"}).status_code == 422
    assert "x1" not in client.get("/db/audit").text


def test_a_hook_of_the_model_refuses_with_its_words(machine, client):
    @machine.users.before_insert()
    def refuse(instance: User) -> None:
        if instance.name == "Eve":
            raise ValueError("Eve is not welcome")
        if instance.name == "Mallory":
            raise PermissionError("only the supervisor adds Mallory")

    answer = client.post("/users/", json={**ANA, "name": "Eve"})
    assert (answer.status_code, answer.json()) == (422, {"detail": "Eve is not welcome"})
    answer = client.post("/users/", json={**ANA, "name": "Mallory"})
    assert (answer.status_code, answer.json()) == (403, {"detail": "only the supervisor adds Mallory"})
    assert machine.users.count() == 0
