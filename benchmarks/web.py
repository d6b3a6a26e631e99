"""The web APIs under load: a server per contender, one client for all."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import random
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.rounds import ROOT, Bench, Rounds, environment, interleave

CONNECTIONS = 8


@dataclass(frozen=True)
class Endpoint:
    """A kind of request, on a table of so many rows."""

    name: str
    title: str
    rows: int
    request: Callable[[int], bytes]
    at_least: float
    max_records: str = ""


def _request(method: str, path: str, body: str = "") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nX-User: bench\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n{body}".encode()


def _body() -> str:
    # Never twice the same, or a PUT would have nothing to do.
    return json.dumps(
        {
            "name": "Part 1",
            "email": "user@example.com",
            "quantity": random.randrange(10**9),
            "price": round(random.random() * 100, 4),
            "active": True,
            "notes": "Batch inspected, torque within tolerance; see the shift report.",
        }
    )


def _get(rows: int) -> bytes:
    return _request("GET", f"/users/{random.randint(1, rows)}")


def _list(_: int) -> bytes:
    return _request("GET", "/users/")


def _post(_: int) -> bytes:
    return _request("POST", "/users/", _body())


def _put(rows: int) -> bytes:
    return _request("PUT", f"/users/{random.randint(1, rows)}", _body())


ENDPOINTS = [
    Endpoint("web-get", "GET /users/{id}", 1000, _get, 3),
    Endpoint("web-list-100", "GET /users/, 100 rows", 100, _list, 5),
    Endpoint("web-list-1000", "GET /users/, 1,000 rows", 1000, _list, 5),
    Endpoint("web-post", "POST /users/", 1000, _post, 5),
    Endpoint("web-post-limit", "POST /users/ with a record limit, from 1,000 rows", 1000, _post, 25, "1000000"),
    Endpoint("web-put", "PUT /users/{id}", 1000, _put, 5),
]


class _Connection(asyncio.Protocol):
    """Sends the next request as soon as the answer to the one before is complete."""

    def __init__(self, next_request: Callable[[], bytes], until: float) -> None:
        self._next_request = next_request
        self._until = until
        self._buffer = bytearray()
        self.latencies: list[float] = []
        self.refused = 0
        self.closed = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._next_request())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = re.search(rb"content-length: *(\d+)", self._buffer[:end].lower())
        if length is None:
            raise ValueError(f"an answer without Content-Length: {bytes(self._buffer[:end])!r}")
        if len(self._buffer) < end + 4 + int(length[1]):
            return
        if self._buffer.startswith(b"HTTP/1.1 2"):
            self.latencies.append(time.perf_counter() - self._sent_at)
        else:
            self.refused += 1
        self._buffer.clear()
        if time.perf_counter() < self._until:
            self._send()
        else:
            self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and time.perf_counter() >= self._until:
            self.closed.set_result(None)
        else:
            self.closed.set_exception(error or ConnectionError("the server closed the connection"))


async def _load(port: int, next_request: Callable[[], bytes], seconds: float) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    until = time.perf_counter() + seconds
    made = [
        await loop.create_connection(lambda: _Connection(next_request, until), "127.0.0.1", port)
        for _ in range(CONNECTIONS)
    ]
    connections = [connection for _, connection in made]
    await asyncio.gather(*(connection.closed for connection in connections))
    return connections


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
    return {name: python for name, python in bench.pythons.items() if name != "raw"}


@contextmanager
def serve(bench: Bench, name: str, options: list[str], rows: int, max_records: str = "") -> Iterator[Server]:
    """The contender's web API on a database of so many rows on disk."""
    with tempfile.TemporaryDirectory(dir=bench.disk) as work:
        database = Path(work) / "bench.db"
        shutil.copyfile(bench.filled(name, rows, rows), database)
        port = free_port()
        command = [bench.pythons[name], "-W", "ignore", "-m", "uvicorn", f"benchmarks.apps.{name}:app"]
        command += ["--port", str(port), "--log-level", "warning", "--no-access-log", *options]
        variables = {"BENCH_DATABASE": str(database), "BENCH_MAX_RECORDS": max_records}
        with running(command, port, "/users/1", Path(work) / "log", **variables) as server:
            yield server


def measure(bench: Bench, endpoint: Endpoint, options: list[str]) -> Rounds:
    """The endpoint of every server under load."""

    def run(name: str) -> dict[str, float]:
        with serve(bench, name, options, endpoint.rows, endpoint.max_records) as server:

            def request() -> bytes:
                return endpoint.request(endpoint.rows)

            asyncio.run(_load(server.port, request, 0.3 if bench.short else 1))
            cpu, began = server.cpu_seconds, time.perf_counter()
            connections = asyncio.run(_load(server.port, request, 1 if bench.short else 3))
            seconds = time.perf_counter() - began
            latencies = sorted(latency for connection in connections for latency in connection.latencies)
            refused = sum(connection.refused for connection in connections)
            if not latencies:
                raise RuntimeError(f"{name} refused all {refused} requests of {endpoint.name}")
            return {
                "per_second": len(latencies) / seconds,
                "cpu_ms": (server.cpu_seconds - cpu) / len(latencies) * 1000,
                "median_ms": latencies[len(latencies) // 2] * 1000,
                "p99_ms": latencies[len(latencies) * 99 // 100] * 1000,
                "refused": refused,
            }

    return interleave(list(servers(bench)), 1 if bench.short else min(bench.rounds, 3), run)
