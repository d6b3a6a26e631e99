"""Exporters and importers over HTTP: parameters, streams, limits, clients that go away."""

import contextlib
import hashlib
import socket
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from models import Counter
from pydantic import BaseModel, ConfigDict, Field

from vstorage_core import Exporter, Importer, ImportRefused, InvalidInput, StorageBusy, hookimpl

ACTOR = {"X-User": "ana"}
BLOCK = bytes(range(256)) * 256


@pytest.fixture
def components():
    return ["counters", "users"]


class Size(BaseModel):
    model_config = ConfigDict(extra="forbid")

    blocks: int = Field(default=1, ge=0, description="So many blocks")
    fail: str = ""


class Received(BaseModel):
    size: int
    digest: str
    dry: bool
    actor: str


class Dry(BaseModel):
    dry: bool = Field(default=False, description="Change nothing")
    fail: str = ""


FAILURES = {
    "value": InvalidInput("no such table"),
    "busy": StorageBusy("busy"),
    "fault": RuntimeError("secret"),
    "file": ImportRefused("2 rows are wrong", [{"row": 3, "msg": "no name"}]),
}


class Blocks:
    @hookimpl
    def vstorage_register_exporters(self):
        yield Exporter(
            name="blocks", filename="blocks.bin", media_type="application/x-blocks", write=self.write, options=Size
        )
        yield Exporter(name="picture", filename="a.svg", media_type="image/svg+xml", write=self.write, options=Size)

    @hookimpl
    def vstorage_register_importers(self):
        yield Importer(name="blocks", path="blocks", read=self.read, options=Dry, summary="Read blocks")

    def write(self, storage, stream, options):
        with storage.snapshot():
            for number in range(options.blocks):
                if options.fail and number == options.blocks - 1:
                    raise FAILURES[options.fail]
                stream.write(BLOCK)

    def read(self, storage, stream, options):
        if options.fail:
            raise FAILURES[options.fail]
        digest, size = hashlib.sha256(), 0
        while chunk := stream.read(65536):
            digest.update(chunk)
            size += len(chunk)
        stream.seek(0)
        assert len(stream.read(1)) == min(size, 1)
        from vstorage_core.audit import current_provenance

        return Received(size=size, digest=digest.hexdigest(), dry=options.dry, actor=current_provenance().actor)


@pytest.fixture
def machine(open_machine, make_database):
    config = {"rest": {"max_upload_bytes": 40 * len(BLOCK)}}
    return open_machine(make_database("sqlite"), plugins=[Blocks()], config=config)


def test_an_export_is_a_download_with_its_length_and_a_name(client):
    answer = client.get("/db/blocks.bin", params={"blocks": 3})
    assert (answer.status_code, answer.content) == (200, BLOCK * 3)
    assert answer.headers["content-type"] == "application/x-blocks"
    assert answer.headers["content-length"] == str(3 * len(BLOCK))
    assert answer.headers["content-disposition"].startswith('attachment; filename="blocks-')


def test_what_a_browser_can_show_is_no_download(client):
    answer = client.get("/db/a.svg")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/svg+xml")
    assert "content-disposition" not in answer.headers


def test_the_options_of_an_exporter_are_checked_query_parameters(client):
    for query, where in (("blocks=-1", "blocks"), ("blocks=x", "blocks"), ("bloks=1", "bloks")):
        answer = client.get(f"/db/blocks.bin?{query}")
        assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", where])
    parameters = client.get("/openapi.json").json()["paths"]["/db/blocks.bin"]["get"]["parameters"]
    blocks = next(parameter for parameter in parameters if parameter["name"] == "blocks")
    assert (blocks["in"], blocks["description"], blocks["schema"]["minimum"]) == ("query", "So many blocks", 0)


def test_an_export_that_fails_at_its_end_is_a_status_and_no_half_file(client):
    for fail, status in (("value", 422), ("busy", 503), ("fault", 500)):
        answer = client.get("/db/blocks.bin", params={"blocks": 5, "fail": fail})
        assert (answer.status_code, list(answer.json())) == (status, ["detail"])
        assert "secret" not in answer.text


def test_a_large_export_arrives_whole_through_a_real_server(machine):
    digest, size = hashlib.sha256(), 0
    with machine.served() as address, httpx.stream("GET", f"{address}/db/blocks.bin?blocks=500") as answer:
        for chunk in answer.iter_bytes():
            digest.update(chunk)
            size += len(chunk)
    assert (size, digest.hexdigest()) == (500 * len(BLOCK), hashlib.sha256(BLOCK * 500).hexdigest())


def unlinked_files():
    """Temporary files that this process has open."""
    names = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            names.add(str(entry.readlink()))
    return {name for name in names if name.endswith("(deleted)")}


def test_a_client_that_stops_in_the_middle_leaves_no_snapshot_and_no_file_behind(machine):
    before = unlinked_files()
    with machine.served() as address:
        with connect(address, receive_buffer_bytes=65536) as client:
            client.sendall(b"GET /db/blocks.bin?blocks=500 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert client.recv(20).startswith(b"HTTP/1.1 200")
            assert unlinked_files() > before
            # The client is slow; a snapshot that were still open would keep the log from being emptied.
            machine.counters.insert(Counter(value=1))
            with contextlib.closing(sqlite3.connect(machine.storage.url.removeprefix("sqlite:///"))) as other:
                assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        assert httpx.get(f"{address}/counters/1").json()["value"] == 1
    assert unlinked_files() == before


def upload(content, name="file"):
    return {name: ("blocks.bin", content, "application/x-blocks")}


def test_an_import_reads_the_file_of_the_form_and_answers_the_report(client):
    answer = client.post("/db/blocks", files=upload(BLOCK * 20), params={"dry": True})
    assert answer.json() == {
        "size": 20 * len(BLOCK),
        "digest": hashlib.sha256(BLOCK * 20).hexdigest(),
        "dry": True,
        "actor": "ana",
    }


def test_an_import_without_an_actor_is_400(client):
    del client.headers["X-User"]
    assert client.post("/db/blocks", files=upload(b"x")).status_code == 400


def test_an_import_that_is_refused_tells_why(client):
    answer = client.post("/db/blocks", files=upload(b"x"), params={"fail": "file"})
    expected = [{"msg": "2 rows are wrong"}, {"row": 3, "msg": "no name"}]
    assert (answer.status_code, answer.json()) == (422, {"detail": expected})
    busy = client.post("/db/blocks", files=upload(b"x"), params={"fail": "busy"})
    assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")
    assert client.post("/db/blocks", files=upload(b"x"), params={"fail": "fault"}).status_code == 500


def test_a_body_without_one_file_is_refused(client):
    for sent in (
        {"files": upload(b"x", name="wrong")},
        {"data": {"file": "text"}},
        {"json": {"file": "x"}},
        {"content": b"x"},
        {"content": b"x", "headers": {"Content-Type": "multipart/form-data"}},
        {"content": b"garbage", "headers": {"Content-Type": "multipart/form-data; boundary=b"}},
        {"files": [("file", b"x"), ("file", b"y")]},
    ):
        answer = client.post("/db/blocks", **sent)
        assert answer.status_code in (400, 422), sent
        assert answer.json()["detail"]


def test_an_upload_that_is_too_large_is_413_whether_its_length_is_told_or_not(client):
    def endless():
        yield b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
        for _ in range(60):
            yield BLOCK

    told = client.post("/db/blocks", files=upload(BLOCK * 41))
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    streamed = client.post("/db/blocks", content=endless(), headers=headers)
    for answer in (told, streamed):
        assert (answer.status_code, "rest.max_upload_bytes" in answer.json()["detail"]) == (413, True)
    assert client.post("/db/blocks", files=upload(BLOCK * 39)).status_code == 200


def test_an_upload_that_tells_that_it_is_too_large_is_refused_before_it_is_sent(machine):
    with machine.served() as address, connect(address) as client:
        client.sendall(
            b"POST /db/blocks HTTP/1.1\r\nHost: localhost\r\nX-User: ana\r\nContent-Length: 999999999\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\nExpect: 100-continue\r\n\r\n"
        )
        assert client.recv(20).startswith(b"HTTP/1.1 413")


TOO_LARGE = "The body is larger than 1,000 bytes; the setting rest.max_body_bytes says how large it may be"


def test_a_json_body_that_is_too_large_is_413_whether_its_length_is_told_or_not(open_machine, make_database):
    machine = open_machine(make_database("sqlite"), config={"rest": {"max_body_bytes": 1000}})
    body = b'{"name": "%s", "email": "a@x"}' % (b"x" * 1000)
    headers = {"Content-Type": "application/json"}
    for content in (body, iter([body[:500], body[500:]])):
        answer = machine.client.post("/users/", content=content, headers=headers)
        assert (answer.status_code, answer.json()) == (413, {"detail": TOO_LARGE})


def test_a_client_that_goes_away_in_the_middle_of_an_upload_leaves_no_trace(machine, caplog):
    before = unlinked_files()
    with machine.served() as address:
        with connect(address) as client:
            client.sendall(
                b"POST /db/blocks HTTP/1.1\r\nHost: localhost\r\nX-User: ana\r\nContent-Length: 900000\r\n"
                b"Content-Type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
                b'Content-Disposition: form-data; name="file"; filename="f"\r\n\r\n' + BLOCK
            )
        assert httpx.get(f"{address}/db/health").status_code == 200
    assert caplog.records == []
    assert unlinked_files() == before


def test_many_uploads_and_downloads_at_once_do_not_hold_each_other_up(machine):
    barrier = threading.Barrier(8)
    with machine.served() as address, ThreadPoolExecutor(8) as pool:

        def run(number):
            barrier.wait()
            if number % 2:
                return len(httpx.get(f"{address}/db/blocks.bin?blocks=20", timeout=60).content)
            sent = httpx.post(f"{address}/db/blocks", files=upload(BLOCK * 20), headers=ACTOR, timeout=60)
            return sent.json()["size"]

        assert list(pool.map(run, range(8))) == [20 * len(BLOCK)] * 8


def connect(address, receive_buffer_bytes=None):
    host, port = address.removeprefix("http://").split(":")
    client = socket.socket()
    client.settimeout(30)
    if receive_buffer_bytes is not None:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
    client.connect((host, int(port)))
    return client
