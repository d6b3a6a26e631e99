"""An application with the plugin: its start and stop, its OpenAPI document, its plugins."""

import importlib.metadata
import runpy
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from models import User
from prometheus_client.parser import text_string_to_metric_families

from vstorage_core import ModelAccessor, Storage, hookimpl, use_default_storage
from vstorage_rest import build_crud_router, build_db_router
from vstorage_rest import plugin as rest_plugin
from vstorage_rest.application import build_routers


class Life:
    """A plugin that notes when it starts and shuts down."""

    def __init__(self):
        self.events = []

    @hookimpl
    def vstorage_startup(self):
        self.events.append("startup")

    @hookimpl
    def vstorage_shutdown(self):
        self.events.append("shutdown")


def test_the_storage_closes_and_starts_with_the_application(open_machine, make_database):
    life = Life()
    machine = open_machine(make_database("sqlite"), plugins=[life])
    with machine.client as client:
        client.post("/counters/", json={"value": 3})
        assert life.events == ["startup"]
    assert life.events == ["startup", "shutdown"]
    with TestClient(machine.app) as client:
        assert life.events == ["startup", "shutdown", "startup"]
        assert client.get("/counters/1").json()["value"] == 3
    assert life.events == ["startup", "shutdown"] * 2


def test_a_database_in_memory_outlives_the_applications_shutdown(open_machine, make_database):
    machine = open_machine(make_database("memory"))
    with machine.client as client:
        client.post("/counters/", json={"value": 3})
    with TestClient(machine.app) as client:
        assert client.get("/counters/1").json()["value"] == 3


def test_the_applications_own_lifespan_runs_too(sqlite_storage):

    events = []

    @asynccontextmanager
    async def lifespan(app):
        events.append("up")
        yield
        events.append("down")

    app = FastAPI(lifespan=lifespan)
    for router in build_routers(sqlite_storage, [], None, True):
        app.include_router(router)
    with TestClient(app):
        assert events == ["up"]
    assert events == ["up", "down"]


def test_the_routers_work_alone_as_in_the_original(sqlite_storage):
    app = FastAPI()
    users = ModelAccessor(User, "users")
    app.include_router(build_crud_router(users))
    with use_default_storage(sqlite_storage):
        app.include_router(build_db_router())
        client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1), headers={"X-User": "ana"})
        assert client.post("/users/", json={"name": "Ana", "email": "a@x"}).status_code == 201
        assert client.get("/users/").json() == client.get("/users").json()
        assert [row["actor"] for row in client.get("/db/audit").json()] == ["ana"]
        assert client.get("/db/health").json()["status"] == "ok"


def test_the_router_of_the_original_allows_a_hundred_records(sqlite_storage):
    app = FastAPI()
    users = ModelAccessor(User, "users", storage=sqlite_storage)
    users.insert_many([User(name="x", email=f"{number}@x") for number in range(100)])
    app.include_router(build_crud_router(users))
    client = TestClient(app, headers={"X-User": "ana"})
    answer = client.post("/users/", json={"name": "Ana", "email": "a@x"})
    assert (answer.status_code, answer.json()) == (409, {"detail": "Max 100 records allowed for users"})


def test_a_machine_may_go_without_the_routes_below_db(open_machine, make_database):
    client = open_machine(make_database("sqlite"), enable_db_router=False).client
    assert (client.get("/db/health").status_code, client.get("/users/").status_code) == (404, 200)


def test_the_loaded_plugins_are_listed(client):
    listed = client.get("/db/plugins").json()
    assert [plugin["name"] for plugin in listed] == ["rest"]
    assert "vstorage_register_routers" in listed[0]["hooks"]
    assert {"GET /db/plugins", "PATCH /users/{record_id}"} <= set(listed[0]["routes"])


def test_health_asks_the_database_and_says_503_when_it_must(open_machine, make_database):
    url = make_database("sqlite")
    machine = open_machine(url)
    health = machine.client.get("/db/health").json()
    database = health["checks"]["database"]
    assert (health["status"], database["ok"]) == ("ok", True)
    assert database["database_bytes"] == Path(url.removeprefix("sqlite:///")).stat().st_size
    assert set(database) == {"ok", "database_bytes", "wal_bytes", "free_disk_bytes"}
    machine.storage.close()
    Path(url.removeprefix("sqlite:///")).write_bytes(b"garbage" * 1000)
    answer = machine.client.get("/db/health")
    assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
    assert answer.json()["checks"]["database"]["ok"] is False
    assert url.removeprefix("sqlite:///") not in answer.text


def test_a_supervisor_is_told_alive_and_ready_apart(open_machine, make_database):
    url = make_database("sqlite")
    machine = open_machine(url)
    assert machine.client.get("/db/live").json() == machine.client.get("/db/ready").json() == {"status": "ok"}
    machine.storage.close()
    Path(url.removeprefix("sqlite:///")).write_bytes(b"garbage" * 1000)
    stranger = machine.caller("10.0.0.9")
    assert (stranger.get("/db/live").status_code, stranger.get("/db/ready").status_code) == (200, 503)


def test_the_metrics_tell_health_records_and_changes(machine, client):
    machine.client.post("/counters/batch", json=[{}, {}, {}])
    client.patch("/counters/1", json={"value": 5})
    client.delete("/counters/2")
    answer = client.get("/db/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
    assert samples["vstorage_healthy", "database"] == 1
    assert samples["vstorage_check", "database", "database_bytes"] > 0
    assert samples["vstorage_records", "counters"] == 2
    assert samples["vstorage_changes_total", "counters", "create"] == 3
    assert samples["vstorage_changes_total", "counters", "update"] == 1
    assert machine.caller("10.0.0.9").get("/db/metrics").status_code == 403


def test_no_commit_pays_for_metrics_where_nobody_can_ask_for_them(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    plugin = runpy.run_path(rest_plugin.__file__)
    with Storage("sqlite://", entry_points=[], plugins=[SimpleNamespace(**plugin)]) as storage:
        [info] = storage.plugins()
        assert "vstorage_register_routers" in info.hooks
        assert "vstorage_after_commit" not in info.hooks
        app = FastAPI()
        app.include_router(build_db_router(storage=storage))
        assert "/db/health" in app.openapi()["paths"]
        assert "/db/metrics" not in app.openapi()["paths"]


@pytest.fixture
def openapi(client):
    return client.get("/openapi.json").json()


def test_operation_ids_are_what_a_person_would_call_them(openapi):
    ids = {operation["operationId"] for path in openapi["paths"].values() for operation in path.values()}
    assert {"list_users", "get_user", "create_user", "put_user", "update_user", "delete_user", "restore_user"} <= ids
    assert {"get_health", "list_plugins", "list_audit"} <= ids


def test_two_components_of_one_model_have_operations_of_their_own(open_machine, make_database):
    document = open_machine(make_database("sqlite"), models={"users": User, "guests": User}).client.get("/openapi.json")
    ids = [operation["operationId"] for path in document.json()["paths"].values() for operation in path.values()]
    assert len(ids) == len(set(ids))
    assert {"create_user", "create_guests"} <= set(ids)
    assert "User" in document.json()["components"]["schemas"]


def test_bodies_are_described_with_their_constraints(openapi):
    schemas = openapi["components"]["schemas"]
    create, update, read = schemas["UserCreate"], schemas["UserUpdate"], schemas["User"]
    assert create["required"] == ["name", "email"]
    assert create["properties"]["name"] == {"maxLength": 50, "title": "Name", "type": "string"}
    assert create["properties"]["age"]["anyOf"][0]["minimum"] == 0
    assert create["additionalProperties"] is False
    assert "required" not in update
    assert read["required"] == ["id", "name", "email", "age", "deleted_at"]
    assert create["description"] == "Soft-deleted, with a unique field."
    body = openapi["paths"]["/users/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert body == {"$ref": "#/components/schemas/UserCreate"}


def test_every_query_parameter_says_what_it_asks_for(openapi):
    described = {
        parameter["name"]: parameter.get("description")
        for path in openapi["paths"].values()
        for operation in path.values()
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    }
    assert [name for name, description in described.items() if not description] == []
    assert described["age__gte"] == "Is at least this"


def test_headers_and_every_status_are_declared(openapi):
    users, user = openapi["paths"]["/users/"], openapi["paths"]["/users/{record_id}"]
    headers = {parameter["name"] for parameter in user["put"]["parameters"] if parameter["in"] == "header"}
    assert headers == {"X-User", "X-Reason", "If-Match", "If-None-Match"}
    everywhere = {"401", "403", "500", "503"}
    assert set(users["post"]["responses"]) == {"201", "400", "409", "413", "422", *everywhere}
    assert set(user["put"]["responses"]) == {"200", "201", "400", "404", "409", "412", "413", "422", *everywhere}
    assert set(user["get"]["responses"]) == {"200", "304", "404", "422", *everywhere}
    assert set(openapi["paths"]["/db/health"]["get"]["responses"]) == {"200", "503"}
    assert set(users["post"]["responses"]["201"]["headers"]) == {"ETag", "Location"}
    assert set(users["get"]["responses"]["200"]["headers"]) == {"Link", "X-Total-Count"}
    assert set(users["get"]["responses"]["503"]["headers"]) == {"Retry-After"}
    failure = users["post"]["responses"]["409"]["content"]["application/json"]["schema"]["$ref"]
    assert set(openapi["components"]["schemas"][failure.rpartition("/")[2]]["properties"]) == {"detail"}


def test_every_answer_has_a_type_of_its_own(openapi):
    answers = {
        operation["operationId"]: operation["responses"]["200"]["content"]["application/json"]["schema"]
        for path in openapi["paths"].values()
        for operation in path.values()
        if "application/json" in operation["responses"].get("200", {}).get("content", {})
    }
    assert len(answers) > 30
    for operation, schema in answers.items():
        assert "$ref" in schema.get("items", schema), operation
    assert not {"HTTPValidationError", "ValidationError"} & set(openapi["components"]["schemas"])


def test_the_document_says_where_the_admin_token_opens_a_door(openapi):
    assert openapi["components"]["securitySchemes"]["AdminToken"]["scheme"] == "bearer"
    doors = {
        path: operation.get("security")
        for path, operations in openapi["paths"].items()
        for operation in operations.values()
        if path.startswith("/db/")
    }
    public = dict.fromkeys(("/db/health", "/db/live", "/db/ready"))
    guarded = {path: [{"AdminToken": []}, {}] for path in ("/db/audit", "/db/plugins", "/db/metrics")}
    assert doors == {**public, **guarded}


def test_operations_are_called_what_they_do(openapi):
    users = openapi["paths"]["/users/"]
    assert (users["get"]["summary"], users["post"]["summary"]) == ("List users", "Create user")
    assert openapi["paths"]["/users/batch"]["patch"]["summary"] == "Update users batch"


def test_a_method_that_there_is_not_is_405_and_told_which_there_are(client):
    for path, allowed in {
        "/users/": "GET, HEAD, POST",
        "/users/1": "DELETE, GET, HEAD, PATCH, PUT",
        "/users/batch": "DELETE, PATCH, POST",
        "/users/1/restore": "POST",
        "/db/audit": "GET, HEAD",
    }.items():
        answer = client.request("PROPFIND", path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed), path
    for method in ("GET", "HEAD", "PUT"):
        answer = client.request(method, "/devices/batch", json={})
        assert (answer.status_code, answer.headers["allow"]) == (405, "DELETE, PATCH, POST")


def test_head_is_answered_like_get_without_the_body(machine, ana):
    with machine.served() as address, httpx.Client(base_url=address) as client:
        for path in ("/users/1", "/users/?count=true", "/users/1/history", "/db/audit", "/db/plugins"):
            got, head = client.get(path), client.head(path)
            assert (got.status_code, head.status_code, head.content) == (200, 200, b""), path
            for name in ("content-length", "content-type", "etag", "x-total-count"):
                assert head.headers.get(name) == got.headers.get(name), (path, name)
        etag = client.head("/users/1").headers["etag"]
        assert client.head("/users/1", headers={"If-None-Match": etag}).status_code == 304
        assert client.head("/users/2").status_code == 404


def test_the_distribution_announces_the_plugin():
    found = importlib.metadata.entry_points(group="vstorage.plugins", name="rest")
    assert [entry_point.value for entry_point in found] == ["vstorage_rest.plugin"]
