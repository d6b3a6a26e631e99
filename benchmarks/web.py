"""The web APIs under load: a server per contender, one client for all."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import Request, load, send_once
from benchmarks.rounds import ROOT, Bench, Rounds, environment, in_turn
from benchmarks.rows import content

BODY = json.dumps(
    {
        "name": "Part 1",
        "email": "user@example.com",
        "quantity": 5,
        "price": 12.3456,
        "active": True,
        "notes": "Batch inspected, torque within tolerance; see the shift report.",
    }
).replace('"quantity": 5', '"quantity": {number}')

_REST = {"get": "GET /users/{key}", "list": "GET /users/", "post": "POST /users/", "put": "PUT /users/{key}"}
# How each contender is asked, as "METHOD path".
APIS = {
    "vstorage": _REST,
    "sqlmodel": _REST,
    "original": _REST,
    "fastcrud": {
        "get": "GET /users/{key}",
        "list": "GET /users?itemsPerPage={rows}",
        "post": "POST /users",
        "put": "PATCH /users/{key}",
    },
    "datasette": {
        "get": "GET /bench/users/{key}.json?_shape=array",
        "list": "GET /bench/users.json?_shape=array&_size={rows}",
    },
}
# The modules of those that `make bench` installs beside vstorage.
OPTIONAL = {"fastcrud": ("fastcrud", "aiosqlite", "greenlet"), "datasette": ("datasette",)}
# They open a database of SQLModel's; they know no audit trail.
WITHOUT_TRAIL = frozenset(OPTIONAL)


@dataclass(frozen=True)
class Endpoint:
    """A kind of request, on a table of so many rows.

    Attributes:
        kind: Key of the dictionaries in `APIS`.
        at_least: Target: times the requests per second of the original.
        max_records: The record limit of the server; without one when empty.
    """

    name: str
    title: str
    kind: str
    rows: int
    at_least: float
    max_records: str = ""

    def request(self, contender: str) -> Request:
        """How the contender is asked."""
        method, _, path = APIS[contender][self.kind].partition(" ")
        body = BODY if self.kind in ("post", "put") else ""
        return Request(method, path.replace("{rows}", str(self.rows)), body, self.rows)

    def is_offered_by(self, contender: str) -> bool:
        # A record limit is for those that have or are written to have one.
        return self.kind in APIS[contender] and not (self.max_records and contender in WITHOUT_TRAIL)


ENDPOINTS = [
    Endpoint("web-get", "GET /users/{id}", "get", 1000, 3),
    Endpoint("web-list-100", "GET /users/, 100 rows", "list", 100, 5),
    Endpoint("web-list-1000", "GET /users/, 1,000 rows", "list", 1000, 5),
    Endpoint("web-post", "POST /users/", "post", 1000, 5),
    Endpoint("web-post-limit", "POST /users/ with a record limit, from 1,000 rows", "post", 1000, 25, "1000000"),
    Endpoint("web-put", "PUT /users/{id}", "put", 1000, 5),
]


@dataclass(frozen=True)
class Server:
    """A running server, and how long it took from its start to its first answer."""

    process: subprocess.Popen[bytes]
    port: int
    first_answer_ms: float

    @property
    def resident_mb(self) -> float:
        """Memory in use."""
        found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    @property
    def cpu_seconds(self) -> float:
        """CPU time used so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextmanager
def running(command: list[str], port: int, path: str, log: Path, **variables: str) -> Iterator[Server]:
    """The server that the command starts, once it answers a GET of the path."""
    began = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment(**variables), cwd=ROOT, stdout=output, stderr=output)
    try:
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
                    answer.read()
                break
            except urllib.error.HTTPError as error:
                raise RuntimeError(f"{path} of {command}: {error}\n{log.read_text()[-2000:]}") from error
            except OSError:
                if process.poll() is not None or time.perf_counter() - began > 60:
                    raise RuntimeError(f"{command} does not answer:\n{log.read_text()[-2000:]}") from None
                time.sleep(0.01)
        yield Server(process, port, (time.perf_counter() - began) * 1000)
    finally:
        process.terminate()
        process.wait(30)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def uvicorn_options(pythons: dict[str, str]) -> list[str]:
    """uvloop and httptools where every contender has them, else what the standard library does, for all."""
    wanted = "import uvloop, httptools"
    every = all(
        subprocess.run([python, "-c", wanted], capture_output=True, check=False).returncode == 0
        for python in set(pythons.values())
    )
    chosen = ("uvloop", "httptools") if every else ("asyncio", "h11")
    return ["--loop", chosen[0], "--http", chosen[1]]


def servers(bench: Bench) -> dict[str, str]:
    """The Python of each contender that has a web API."""
    if importlib.util.find_spec("uvicorn") is None:
        raise RuntimeError("the web benchmarks need the rest plugin: pip install 'vstorage-core[rest]'")
    found = {name: python for name, python in bench.pythons.items() if name in APIS}
    return {**found, **{name: sys.executable for name in OPTIONAL if not missing_modules(name)}}


def missing_modules(contender: str) -> list[str]:
    """What is not installed of that which the contender needs."""
    return [module for module in OPTIONAL[contender] if importlib.util.find_spec(module) is None]


@contextmanager
def serve(bench: Bench, name: str, options: list[str], database: Path, max_records: str = "") -> Iterator[Server]:
    """The contender's web API on that database."""
    port = free_port()
    command = [servers(bench)[name], "-W", "ignore", "-m", "uvicorn", f"benchmarks.apps.{name}:app"]
    command += ["--port", str(port), "--log-level", "warning", "--no-access-log", *options]
    variables = {"BENCH_DATABASE": str(database), "BENCH_MAX_RECORDS": max_records}
    path, _ = ENDPOINTS[0].request(name).fill_in(1, 1)
    with running(command, port, path, database.with_suffix(".log"), **variables) as server:
        yield server


@contextmanager
def copied(bench: Bench, name: str, rows: int) -> Iterator[Path]:
    """A database of the contender with so many rows, on disk."""
    filled = bench.filled("sqlmodel" if name in OPTIONAL else name, rows, rows)
    with tempfile.TemporaryDirectory(dir=bench.disk) as work:
        yield Path(shutil.copyfile(filled, Path(work) / "bench.db"))


def measure(bench: Bench, endpoints: Sequence[Endpoint], options: list[str]) -> dict[str, Rounds]:
    """The endpoints of every server under load, by name; in each round the servers take turns on one endpoint.

    Raises:
        RuntimeError: A server does not answer.
        AssertionError: The servers answer different rows, or leave different ones.
    """
    results: dict[str, Rounds] = {endpoint.name: {} for endpoint in endpoints}
    # What asks the same of a server shares it.
    groups: dict[tuple[int, str], list[Endpoint]] = {}
    for endpoint in endpoints:
        groups.setdefault((endpoint.rows, endpoint.max_records), []).append(endpoint)
    for number in range(1 if bench.short else min(bench.rounds, 3)):
        for (rows, max_records), group in groups.items():
            with ExitStack() as stack:
                names = [name for name in servers(bench) if any(one.is_offered_by(name) for one in group)]
                databases = {name: stack.enter_context(copied(bench, name, rows)) for name in names}
                started = {
                    name: stack.enter_context(serve(bench, name, options, databases[name], max_records))
                    for name in names
                }
                for endpoint in group:
                    _check_equal(endpoint, started, databases)
                for endpoint in group:
                    offering = [name for name in names if endpoint.is_offered_by(name)]
                    for name in in_turn(offering, number):
                        found = _measure(name, started[name], endpoint.request(name), short=bench.short)
                        results[endpoint.name].setdefault(name, []).append(found)
    return results


def _measure(name: str, server: Server, request: Request, *, short: bool) -> dict[str, float]:
    if not short:
        load(server.port, request, 1)
    # Where a busy machine lets nothing through in a second, it gets more of them.
    for seconds in (1 if short else 3, 30):
        cpu = server.cpu_seconds
        found = load(server.port, request, seconds)
        if found.answers:
            cpu_ms = (server.cpu_seconds - cpu) / found.answers * 1000
            return {"per_second": found.answers / found.seconds, "cpu_ms": cpu_ms, **asdict(found)}
    raise RuntimeError(f"{name} never answers {request.method} {request.path}: {found}")


def _check_equal(endpoint: Endpoint, started: dict[str, Server], databases: dict[str, Path]) -> None:
    """Ask every server once, and see that the answers and what is stored then are equal."""
    answers, users, trails = {}, {}, {}
    for name, server in started.items():
        if endpoint.is_offered_by(name):
            try:
                answers[name] = _values(send_once(server.port, endpoint.request(name)))
            except RuntimeError as error:
                raise RuntimeError(f"{name} refuses {error}") from error
            # New records tell when they were made.
            users[name], trail = content(databases[name], without="created_at")
            if name not in WITHOUT_TRAIL:
                trails[name] = trail
    # What a write answers is up to each of them.
    compared = {
        "rows": users,
        "audit trail": trails,
        **({} if endpoint.request("vstorage").body else {"answer": answers}),
    }
    for what, found in compared.items():
        for name, values in found.items():
            assert values == found["vstorage"], f"{endpoint.title}: {what} of {name} and of vstorage are different"


def _values(answer: bytes) -> list[tuple[Any, ...]]:
    """The columns that all spell alike."""
    found = json.loads(answer)
    if isinstance(found, dict):
        found = found.get("data", [found])
    names = ("id", "name", "email", "quantity", "price", "active", "notes")
    return [tuple(row[name] for name in names) for row in found or ()]
