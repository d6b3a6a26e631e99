"""Who may do what."""

import socket
from typing import ClassVar

import pytest
from fastapi import HTTPException
from pydantic import BaseModel

from vstorage_core import ConfigurationError, Exporter, Importer, hookimpl

ANA = {"name": "Ana", "email": "ana@example.com"}
TOKEN = "0123456789abcdef0123456789abcdef"
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def components():
    return ["users"]


class Report(BaseModel):
    size: int


class Transfers:
    """A plugin with an exporter and an importer that counts its calls."""

    def __init__(self):
        self.imported = 0

    @hookimpl
    def vstorage_register_exporters(self):
        return [
            Exporter(name="text", filename="text.txt", media_type="text/plain", write=self.write),
            Exporter(name="all", filename="all.bin", media_type="text/plain", write=self.write, action="backup"),
        ]

    @hookimpl
    def vstorage_register_importers(self):
        return [
            Importer(name="text", path="text", read=self.read, report=Report),
            Importer(name="all", path="all", read=self.read, action="restore"),
        ]

    def write(self, storage, stream, options):
        stream.write(b"everything")

    def read(self, storage, stream, options):
        self.imported += 1
        return Report(size=len(stream.read()))


@pytest.fixture
def transfers():
    return Transfers()


@pytest.fixture
def guarded(open_machine, make_database, transfers):
    """A machine with an admin token."""
    return open_machine(make_database("sqlite"), plugins=[transfers], config={"rest": {"admin_token": TOKEN}})


def call_everything_below_db(client):
    """Status by route of all that the OpenAPI document tells of, and HEAD of it."""
    paths = client.get("/openapi.json").json()["paths"]
    routes = [(method, path) for path in paths if path.startswith("/db/") for method in paths[path]]
    statuses = {}
    for method, path in [*routes, *(("head", path) for method, path in routes if method == "get")]:
        upload = {"files": {"file": ("x", b"12345")}} if method == "post" else {}
        statuses[method, path] = client.request(method.upper(), path, **upload).status_code
    return statuses


GUARDED = ("/db/audit", "/db/plugins", "/db/metrics", "/db/text.txt", "/db/all.bin")
PUBLIC = ("/db/health", "/db/live", "/db/ready")
READS = [(method, path) for path in (*GUARDED, *PUBLIC) for method in ("get", "head")]
OPEN = dict.fromkeys([*READS, ("post", "/db/text"), ("post", "/db/all")], 200)
CLOSED = {route: 200 if route[1] in PUBLIC else 403 for route in OPEN}
STRANGERS = {
    "another machine": {"address": "10.0.0.9"},
    "another machine that names this one": {"address": "10.0.0.9", "host": "127.0.0.1"},
    "another machine over IPv6": {"address": "2001:db8::1"},
    "a web page that made its name point here": {"host": "evil.example"},
    "a proxy on this machine": {"X-Forwarded-For": "10.0.0.9"},
    "a proxy on this machine, by the standard": {"Forwarded": "for=10.0.0.9"},
    "a proxy on this machine, another header": {"X-Real-IP": "10.0.0.9"},
    "a proxy that hides the host": {"X-Forwarded-Host": "machine.example"},
    "one who claims to be local": {"address": "10.0.0.9", "X-Forwarded-For": "127.0.0.1"},
    "one with a wrong token": {"address": "10.0.0.9", "Authorization": f"Bearer {TOKEN[:-1]}x"},
    "one with a token beyond ASCII": {"address": "10.0.0.9", "Authorization": "Bearer ü".encode()},
    "one with another scheme": {"address": "10.0.0.9", "Authorization": f"Basic {TOKEN}"},
    "an unknown peer": {"address": "testclient"},
}


@pytest.mark.parametrize(
    "stranger", [pytest.param(who, id=name) for name, who in STRANGERS.items() if "broken" not in name]
)
def test_a_stranger_gets_nothing_below_db_but_health(guarded, transfers, stranger):
    client = guarded.caller(**stranger)
    assert call_everything_below_db(client) == CLOSED
    assert transfers.imported == 0
    assert client.get("/users/").status_code == 200


def test_a_refusal_says_how_to_allow_it(guarded):
    refused = guarded.caller("10.0.0.9").get("/db/audit")
    assert "VSTORAGE_ADMIN_TOKEN" in refused.json()["detail"]
    assert TOKEN not in refused.text


def test_this_machine_itself_gets_everything(guarded):
    for address in ("127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"):
        for host in ("localhost", "127.0.0.1:8000", "[::1]:8000"):
            assert call_everything_below_db(guarded.caller(address, host)) == OPEN, (address, host)


def test_the_admin_token_opens_everything_from_anywhere(guarded):
    client = guarded.caller("10.0.0.9", "machine.example", **BEARER, **{"X-Forwarded-For": "1.2.3.4"})
    assert call_everything_below_db(client) == OPEN
    del client.headers["X-User"]
    assert client.post("/users/", json=ANA).status_code == 201
    row = client.get("/db/audit").json()[0]
    assert (row["actor"], row["actor_source"], row["remote_address"]) == ("admin", "token", "10.0.0.9")


def test_the_admin_token_is_read_from_the_environment(open_machine, make_database, monkeypatch):
    monkeypatch.setenv("VSTORAGE_ADMIN_TOKEN", TOKEN)
    machine = open_machine(make_database("sqlite"))
    assert machine.caller("10.0.0.9", **BEARER).get("/db/audit").status_code == 200


def test_a_short_admin_token_stops_the_start(open_machine, make_database, monkeypatch):
    monkeypatch.setenv("VSTORAGE_ADMIN_TOKEN", TOKEN[:-1])
    with pytest.raises(ConfigurationError, match="at least 32 characters"):
        open_machine(make_database("sqlite"))


def test_another_web_site_changes_nothing(guarded, transfers):
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost:9999"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        client = guarded.caller(**headers)
        answers = [
            client.post("/users/", json=ANA),
            client.put("/users/1", json=ANA),
            client.patch("/users/1", json=ANA),
            client.delete("/users/1"),
            client.post("/users/1/restore"),
            client.post("/db/text", files={"file": ("x", b"12345")}),
        ]
        assert {answer.status_code for answer in answers} == {403}, headers
        assert "rest.allowed_origins" in answers[0].json()["detail"]
    assert (transfers.imported, guarded.users.count()) == (0, 0)


def test_our_own_pages_and_those_that_are_named_change_data(open_machine, make_database):
    machine = open_machine(make_database("sqlite"), config={"rest": {"allowed_origins": ["https://hmi.local"]}})
    own = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
    assert machine.caller(**own).post("/users/", json=ANA).status_code == 201
    named = {"Origin": "https://hmi.local", "Sec-Fetch-Site": "cross-site"}
    assert machine.caller(**named).patch("/users/1", json={"age": 3}).status_code == 200


def test_a_label_is_believed_from_the_trusted_proxies_only(open_machine, make_database):
    machine = open_machine(make_database("sqlite"), config={"rest": {"trusted_proxies": "10.0.0.0/24, ::1"}})
    forwarded = {"X-Forwarded-For": "192.0.2.7, 10.0.0.5"}
    assert machine.caller("10.0.0.9", **forwarded).post("/users/", json=ANA).status_code == 201
    row = machine.caller().get("/db/audit", headers={"X-User": ""}).json()[0]
    assert (row["actor"], row["remote_address"]) == ("ana", "192.0.2.7")
    refused = machine.caller("10.0.1.9", **forwarded).post("/users/", json=ANA)
    assert (refused.status_code, "rest.trusted_proxies" in refused.text) == (403, True)


def test_a_forwarded_address_is_not_believed_from_anybody_else(machine):
    machine.caller("10.0.1.9", **{"X-Forwarded-For": "192.0.2.7"}).post("/users/", json=ANA)
    assert machine.client.get("/db/audit").json()[0]["remote_address"] == "10.0.1.9"


class Keys:
    """Names callers by a key, and lets each do what its role may."""

    keys: ClassVar = {"k-ana": "ana", "k-eve": "eve"}
    roles: ClassVar = {"ana": {"records.read", "records.write", "db.audit"}, "eve": {"records.read"}}

    @hookimpl
    def vstorage_authenticate(self, request):
        key = request.headers.get("x-key")
        if key is None:
            return None
        if key not in self.keys:
            raise HTTPException(401, "no such key")
        return self.keys[key]

    @hookimpl
    def vstorage_authorize(self, actor, action, component):
        return action in self.roles[actor] if actor in self.roles else None


class Service:
    """Lets everybody take a backup, nobody take it back, and whoever may export everything but `text`."""

    @hookimpl
    def vstorage_authorize(self, action, component):
        return {"db.backup": True, "db.restore": False, "db.export": component != "text"}.get(action)


def test_backing_up_and_restoring_are_permissions_of_their_own(open_machine, make_database, transfers):
    machine = open_machine(make_database("sqlite"), plugins=[transfers, Service()])
    stranger, upload = machine.caller("10.0.0.9"), {"file": ("x", b"12345")}
    assert (stranger.get("/db/all.bin").status_code, stranger.get("/db/text.txt").status_code) == (200, 403)
    assert machine.client.post("/db/text", files=upload).status_code == 200
    refused = machine.client.post("/db/all", files=upload)
    assert (refused.status_code, refused.json()) == (403, {"detail": "ana may not do db.restore on all"})
    assert transfers.imported == 1


class NobodySeesPlugins:
    @hookimpl
    def vstorage_authorize(self, action):
        return False if action == "db.plugins" else None


def test_plugins_name_the_caller_and_say_what_it_may(open_machine, make_database):
    machine = open_machine(make_database("sqlite"), plugins=[Keys()], config={"rest": {"deny_by_default": True}})
    ana = machine.caller("10.0.0.9", **{"X-Key": "k-ana", "X-User": "somebody else"})
    eve = machine.caller("10.0.0.9", **{"X-Key": "k-eve"})
    stranger = machine.caller("10.0.0.9")
    assert ana.post("/users/", json=ANA).status_code == 201
    assert eve.get("/users/1").status_code == 200
    refused = eve.patch("/users/1", json={"age": 3})
    assert (refused.status_code, refused.json()) == (403, {"detail": "eve may not do records.write on users"})
    assert (eve.get("/db/audit").status_code, ana.get("/db/plugins").status_code) == (403, 403)
    row = ana.get("/db/audit").json()[0]
    assert (row["actor"], row["actor_source"]) == ("ana", "Keys")
    assert machine.caller("10.0.0.9", **{"X-Key": "k-x"}).get("/users/1").status_code == 401
    denied = stranger.get("/users/1")
    assert (denied.status_code, "rest.deny_by_default" in denied.text) == (403, True)


def test_one_plugin_that_denies_is_enough(open_machine, make_database):
    config = {"rest": {"admin_token": TOKEN}}
    machine = open_machine(make_database("sqlite"), plugins=[Keys(), NobodySeesPlugins()], config=config)
    assert machine.client.get("/db/plugins").status_code == 403
    assert machine.caller("10.0.0.9", **BEARER).get("/db/plugins").status_code == 403
    assert machine.client.get("/db/audit").status_code == 200


def test_who_may_not_is_told_so_before_the_upload_is_sent(guarded):
    with guarded.served() as address, socket.create_connection(address.removeprefix("http://").split(":")) as client:
        client.sendall(
            b"POST /db/text HTTP/1.1\r\nHost: evil.example\r\nX-User: ana\r\nContent-Length: 5\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(20).startswith(b"HTTP/1.1 403")
