"""What is refused: with which status and words, and that nothing is stored and nothing leaks."""

import errno
import logging
import sqlite3

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from models import Counter, Sample, User
from sqlalchemy import CheckConstraint
from sqlmodel import Field, SQLModel

from vstorage_core import (
    ConfigurationError,
    ConstraintViolation,
    ImportInProgress,
    ImportRefused,
    InvalidInput,
    InvalidRecord,
    ModelAccessor,
    PluginConflictError,
    PluginError,
    RecordDeleted,
    RecordLimitReached,
    StorageBusy,
    StorageError,
    StorageUnavailable,
    TransactionConflict,
    TransactionError,
    bootstrap,
)


@pytest.fixture
def components():
    return ["users", "counters", "devices", "samples"]


class Shelf(SQLModel, table=True):
    __tablename__ = "rest_shelf"
    __table_args__ = (CheckConstraint("height >= 0", name="rest_shelf_height"),)

    id: int | None = Field(default=None, primary_key=True)
    height: int = 0


class Box(SQLModel, table=True):
    __tablename__ = "rest_box"

    id: int | None = Field(default=None, primary_key=True)
    shelf_id: int = Field(foreign_key="rest_shelf.id")


ANA = {"name": "Ana", "email": "ana@example.com"}
JSON = {"Content-Type": "application/json"}


REFUSED_VALUES = [
    ("users", "{}", ["name"]),
    ("users", '{"name": 3, "email": "a@x"}', ["name"]),
    ("users", '{"name": null, "email": "a@x"}', ["name"]),
    ("users", '{"name": "Ana", "email": "a@x", "age": "40"}', ["age"]),
    ("users", '{"name": "Ana", "email": "a@x", "age": true}', ["age"]),
    ("users", '{"name": "Ana", "email": "a@x", "age": -1}', ["age"]),
    ("users", '{"name": "Ana", "email": "a@x", "agee": 40}', ["agee"]),
    ("users", '{"name": "Ana", "email": "nowhere"}', ["email"]),
    ("users", '{"name": "%s", "email": "a@x"}' % ("x" * 51), ["name"]),
    ("users", '{"name": "Ana", "email": "a@x", "deleted_at": "2026-01-01T00:00:00Z"}', ["deleted_at"]),
    ("counters", '{"value": "abc"}', ["value"]),
    ("counters", '{"value": 9223372036854775808}', ["value"]),
    ("counters", '{"value": -9223372036854775809}', ["value"]),
    ("counters", '{"id": 9223372036854775808}', ["id"]),
    ("counters", '{"value": 1e400}', ["value"]),
    ("samples", '{"ratio": 1e999}', ["ratio"]),
    ("samples", '{"ratio": NaN}', ["ratio"]),
    ("samples", '{"ratio": "0.5"}', ["ratio"]),
    ("samples", '{"flag": 1}', ["flag"]),
    ("samples", '{"price": NaN}', ["price"]),
    ("samples", '{"price": "1.234"}', ["price"]),
    ("samples", '{"price": "12345678901.00"}', ["price"]),
    ("samples", '{"moment": 5}', ["moment"]),
    ("samples", '{"moment": "5"}', ["moment"]),
    ("samples", '{"moment": "2026-01-01T00:00:00"}', ["moment"]),
    ("samples", '{"day": "2026-02-30"}', ["day"]),
    ("samples", '{"clock": "12:00:00+02:00"}', ["clock"]),
    ("samples", '{"duration": 5}', ["duration"]),
    ("samples", '{"token": "x"}', ["token"]),
    ("samples", '{"color": "green"}', ["color"]),
    ("samples", '{"raw": "?"}', ["raw"]),
    ("samples", '{"text": "\\ud800"}', ["text"]),
    ("samples", '{"text": "a\\u0000b"}', ["text"]),
    ("samples", '{"settings": [1]}', ["settings"]),
    ("samples", '{"settings": {"a": NaN}}', ["settings"]),
    ("samples", '{"settings": {"a": "\\ud800"}}', ["settings"]),
    ("samples", '{"settings": {"a": "\\u0000"}}', ["settings"]),
    ("samples", '{"settings": {"a": %s}}' % ("[" * 600 + "]" * 600), ["settings"]),
]


def test_a_value_that_the_model_does_not_allow_is_422_naming_the_field(machine, client):
    for component, body, where in REFUSED_VALUES:
        answer = client.post(f"/{component}/", content=body, headers=JSON)
        assert answer.status_code == 422, body
        problems = answer.json()["detail"]
        assert problems[0]["loc"][: len(where) + 1] == ["body", *where], body
        assert all(set(problem) == {"type", "loc", "msg"} for problem in problems), body
        assert client.get(f"/{component}/").json() == [], body
    assert client.get("/db/audit").json() == []


def test_a_body_that_is_no_record_is_refused_and_never_a_server_error(client):
    for body in (
        '{"name": ',
        "",
        "null",
        "[]",
        '"text"',
        '{"settings": {"a": %s}}' % ("[" * 10_000 + "]" * 10_000),
        "[" * 100_000,
        b'{"text": "\xff"}',
        '{"number": %s}' % ("9" * 10_000),
    ):
        answer = client.post("/samples/", content=body, headers=JSON)
        assert answer.status_code in (400, 422), body[:50]
        assert answer.json()["detail"]
    assert client.get("/samples/").json() == []


def test_a_body_that_is_not_declared_as_json_is_422(client):
    assert client.post("/users/", content='{"name": "Ana"}', headers={"Content-Type": "text/plain"}).status_code == 422


def test_a_path_that_holds_no_key_is_422(client):
    for key in ("abc", str(2**63), "1.5", "%00"):
        for method in ("GET", "PUT", "PATCH", "DELETE"):
            body = {} if method in ("GET", "DELETE") else {"json": ANA}
            assert client.request(method, f"/users/{key}", **body).status_code == 422, (method, key)


def test_a_nul_in_a_text_key_is_422(any_machine):
    assert any_machine.client.get("/devices/%00").status_code == 422


def test_a_unique_value_that_is_taken_is_409_naming_the_field(any_machine):
    client = any_machine.client
    client.post("/users/", json=ANA)
    answer = client.post("/users/", json={**ANA, "name": "Other"})
    assert answer.status_code == 409
    problem = answer.json()["detail"][0]
    assert (problem["type"], problem["msg"]) == ("unique", f"{problem['loc'][1]} is taken by another record")
    assert "email" in problem["loc"][1]


def test_a_reference_to_nothing_is_409_and_so_is_deleting_what_is_in_use(open_machine, database_url):
    machine = open_machine(database_url, models={"shelves": Shelf, "boxes": Box})
    client, deleted = machine.client, []
    machine.shelves.after_delete()(lambda instance: deleted.append(instance))
    answer = client.post("/boxes/", json={"shelf_id": 7})
    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (409, "foreign_key")
    client.post("/shelves/", json={})
    assert client.post("/boxes/", json={"shelf_id": 1}).status_code == 201
    answer = client.delete("/shelves/1")
    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (409, "foreign_key")
    assert client.get("/shelves/1").status_code == 200
    assert deleted == []
    assert [row["component"] for row in client.get("/db/audit").json()] == ["boxes", "shelves"]


def test_a_rule_of_the_table_that_refuses_is_422(open_machine, database_url):
    client = open_machine(database_url, models={"shelves": Shelf}).client
    answer = client.post("/shelves/", json={"height": -1})
    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, "check")


def test_a_full_component_is_409_and_soft_deleted_records_do_not_count(open_machine, make_database):
    client = open_machine(make_database("sqlite"), max_records_per_model=2).client
    for number in (1, 2):
        assert client.post("/users/", json={"name": "x", "email": f"{number}@x.com"}).status_code == 201
    other = {"name": "x", "email": "3@x.com"}
    for answer in (client.post("/users/", json=other), client.put("/users/9", json=other)):
        assert (answer.status_code, answer.json()) == (409, {"detail": "Max 2 records allowed for users"})
    assert client.patch("/users/1", json={"age": 3}).status_code == 200
    client.delete("/users/1")
    assert client.post("/users/", json=other).status_code == 201
    assert client.post("/users/1/restore").status_code == 409
    assert client.get("/users/1", params={"include_deleted": True}).json()["deleted_at"] is not None


def test_a_write_without_a_usable_actor_is_400(machine, client):
    del client.headers["X-User"]
    missing = "Missing X-User header: name who acts, e.g. 'X-User: ana'"
    not_one = "X-User: the actor must be 1 to 255 printable characters"
    for headers, words in (
        ([], missing),
        ([("X-User", "")], missing),
        ([("X-User", " ")], not_one),
        ([("X-User", "x" * 256)], not_one),
        ([("X-User", "a\tb")], not_one),
        ([("X-User", "ana"), ("X-User", "ben")], "More than one X-User header"),
    ):
        for method, path in (
            ("POST", "/users/"),
            ("PUT", "/users/1"),
            ("PATCH", "/users/1"),
            ("DELETE", "/users/1"),
            ("POST", "/users/1/restore"),
        ):
            answer = client.request(method, path, json=ANA, headers=headers)
            assert (answer.status_code, answer.json()) == (400, {"detail": words}), (method, headers)
    assert machine.users.count() == 0


def test_reading_needs_no_actor(client, ana):
    del client.headers["X-User"]
    assert client.get("/users/").status_code == client.get("/users/1").status_code == 200


STATUSES = {
    InvalidInput("no such thing"): (422, "no such thing"),
    ValueError("too fast"): (422, "too fast"),
    PermissionError("only for supervisors"): (403, "only for supervisors"),
    RecordDeleted("users 1 is deleted"): (404, "users 1 is deleted"),
    RecordLimitReached("full"): (409, "full"),
    ImportInProgress("a restore is running"): (409, "a restore is running"),
    StorageBusy("busy"): (503, "busy"),
    TransactionConflict("others stood in the way"): (503, "others stood in the way"),
    StorageUnavailable("the disk is full"): (503, "the disk is full"),
    OSError(errno.ENOSPC, "No space left on device", "/var/lib/secret"): (503, "The disk is full"),
    ImportRefused("bad file"): (422, "bad file"),
    ImportRefused("bad file", [{"row": 3}]): (422, [{"msg": "bad file"}, {"row": 3}]),
    InvalidRecord("users", [{"type": "x", "loc": ("age",), "msg": "no"}]): (
        422,
        [{"type": "x", "loc": ["body", "age"], "msg": "no"}],
    ),
    ConstraintViolation("unique", ["email"], "email is taken"): (
        409,
        [{"type": "unique", "loc": ["body", "email"], "msg": "email is taken"}],
    ),
    ConstraintViolation("foreign_key", [], "still in use"): (
        409,
        [{"type": "foreign_key", "loc": ["body"], "msg": "still in use"}],
    ),
    ConstraintViolation("not_null", ["age"], "age is required"): (
        422,
        [{"type": "not_null", "loc": ["body", "age"], "msg": "age is required"}],
    ),
    ConstraintViolation("check", [], "a rule"): (422, [{"type": "check", "loc": ["body"], "msg": "a rule"}]),
}
FAULTS = [
    StorageError("secret"),
    PluginError("secret"),
    PluginConflictError("secret"),
    KeyError("SELECT secret"),
    ConfigurationError("no such table: secret"),
    TransactionError("secret"),
    PermissionError(errno.EACCES, "Permission denied", "/var/lib/secret"),
    OSError(errno.EIO, "I/O error", "/var/lib/secret"),
    UnicodeDecodeError("utf-8", b"secret", 0, 1, "secret"),
    sqlite3.OperationalError("near SELECT: secret"),
    RuntimeError("secret"),
]


def test_every_exception_of_ours_stands_in_these_tables():
    """A new one needs a decision: a refusal with a status, or a fault."""

    def kinds_of(kind):
        return {kind}.union(*map(kinds_of, kind.__subclasses__()))

    decided = {type(error) for error in (*STATUSES, *FAULTS)}
    assert {kind for kind in kinds_of(StorageError) if kind.__module__ == "vstorage_core.errors"} <= decided


@pytest.fixture
def raise_error(machine):
    """Makes every insert of a user raise what it is given."""
    errors = []

    @machine.users.before_insert()
    def fail(instance: User) -> None:
        raise errors[-1]

    return errors.append


def test_every_refusal_has_its_status(machine, client, raise_error):
    for error, expected in STATUSES.items():
        raise_error(error)
        answer = client.post("/users/", json=ANA)
        assert (answer.status_code, answer.json()["detail"]) == expected, repr(error)
        assert ("retry-after" in answer.headers) == (answer.status_code == 503), repr(error)
    assert machine.users.count() == 0


def test_a_fault_is_500_with_an_id_that_stands_in_the_log_and_nothing_else(machine, client, caplog, raise_error):
    for error in FAULTS:
        raise_error(error)
        with caplog.at_level(logging.ERROR, "vstorage.rest"):
            answer = client.post("/users/", json=ANA)
        words = answer.json()["detail"].split()
        assert (answer.status_code, words[:2]) == (500, ["Internal", "error"]), repr(error)
        assert words[2].rstrip(";") in caplog.text
        assert "secret" not in answer.text
    assert machine.users.count() == 0


def test_a_fault_while_reading_is_never_called_the_clients(machine, client, ana):
    with machine.storage.transaction() as session:
        session.connection().exec_driver_sql("UPDATE users SET deleted_at = 'secret nonsense'")
    answer = client.get("/users/1", params={"include_deleted": True})
    assert answer.status_code == 500
    assert "nonsense" not in answer.text


def test_a_locked_database_is_503_with_a_time_to_come_back(open_machine, make_database):
    url = make_database("sqlite")
    client = open_machine(url, config={"engine": {"timeout_seconds": 0.1}}).client
    other = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    answer = client.post("/users/", json=ANA)
    other.execute("ROLLBACK")
    other.close()
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert client.post("/users/", json=ANA).status_code == 201


def test_no_refusal_shows_sql_paths_or_what_was_sent(open_machine, database_url):
    models = {"users": User, "counters": Counter, "samples": Sample, "shelves": Shelf, "boxes": Box}
    client, marker = open_machine(database_url, models=models).client, "SeCrEt-17"
    client.post("/users/", json={"name": "x", "email": f"{marker}@x.com"})
    answers = [
        client.post("/users/", json={"name": "x", "email": f"{marker}@x.com"}),
        client.post("/users/", json={"name": "x", "email": marker}),
        client.post("/users/", json={"name": marker * 10, "email": "a@x"}),
        client.post("/users/", json={"name": "x", "email": "a@x", "age": marker}),
        client.post("/boxes/", json={"shelf_id": 987654321}),
        client.post("/samples/", json={"price": marker}),
        client.post("/samples/", json={"color": marker}),
        client.post("/samples/", json={"token": marker, "moment": marker, "raw": marker + "?"}),
        client.post("/users/", content=f'{{"name": "{marker}"', headers=JSON),
        client.put(f"/counters/{marker}", json={}),
        client.get(f"/users/?age={marker}"),
        client.get(f"/users/?order_by={marker}"),
        client.get(f"/users/?after={marker}"),
        client.get(f"/users/?fields={marker}"),
        client.get(f"/users/?age__in={marker}"),
        client.get(f"/db/audit?since={marker}"),
        client.get(f"/db/audit?operation={marker}"),
        client.get(f"/db/audit?cursor={marker}"),
    ]
    assert {answer.status_code for answer in answers} == {409, 422}
    for answer in answers:
        for word in (
            marker,
            "SeCrEt",
            "987654321",
            "SELECT",
            "INSERT",
            "sqlite",
            "psycopg",
            "pymysql",
            "/",
            "Traceback",
        ):
            assert word.lower() not in answer.text.lower(), answer.text


def attempts(paths, marker):
    """A request for every parameter, body and file that an OpenAPI document knows: method, path, the rest."""
    upload = {"files": {"file": (f"{marker}.zip", f"{marker},\n'{marker}'".encode())}}
    for template, operations in paths.items():
        path = template.replace("{record_id}", "1")
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {})
            rest = upload if "multipart/form-data" in body else {}
            for parameter in operation.get("parameters", ()):
                where, name = parameter["in"], parameter["name"]
                if where == "path":
                    yield method, template.replace("{record_id}", marker), rest
                elif where == "query":
                    yield method, path, {"params": {name: marker}, **rest}
                elif name not in ("X-User", "X-Reason"):
                    yield method, path, {"headers": {name: marker}, **rest}
            if body:
                for sent in (marker, {"unknown": marker}, [{"name": marker}], [marker]):
                    yield method, path, {"json": sent}
                yield method, path, upload


def test_nothing_that_is_sent_anywhere_comes_back_in_a_refusal(open_storage, make_database, tmp_path):
    storage, marker, app = open_storage(make_database("sqlite"), entry_points=None), "SeCrEt-17", FastAPI()
    bootstrap(app, accessors=[ModelAccessor(User, "users", storage=storage)], storage=storage)
    client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1), headers={"X-User": "ana"})
    refused = 0
    for method, path, rest in attempts(client.get("/openapi.json").json()["paths"], marker):
        answer = client.request(method, path, **rest)
        if answer.status_code >= 400:
            refused += 1
            assert answer.status_code in (400, 404, 409, 412, 422), (method, path, rest, answer.text)
            told = answer.text.lower()
            assert marker.lower() not in told or "there is no table" in told, (method, path, rest, answer.text)
            for word in ("select ", "insert into", "psycopg", "pymysql", ".py", "traceback", tmp_path.name):
                assert word not in told, (method, path, rest, answer.text)
    assert refused > 100


def test_a_component_that_would_hide_the_servers_own_routes_is_refused_at_start(open_machine, make_database):
    for name in ("db", "db/health", "docs", "openapi.json"):
        with pytest.raises(ConfigurationError, match="would hide the server's own"):
            open_machine(make_database("sqlite"), models={name: User})


def test_components_that_a_generated_client_could_not_tell_apart_are_refused_at_start(open_machine, make_database):
    with pytest.raises(ConfigurationError, match="/a-b/batch and /a_b/batch would both be the operation"):
        open_machine(make_database("sqlite"), models={"a-b": User, "a_b": Counter})
