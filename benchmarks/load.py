"""Requests from several connections: by wrk where it is installed, else by a client in Python."""

from __future__ import annotations

import asyncio
import http.client
import json
import random
import re
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

CONNECTIONS = 8


@dataclass(frozen=True)
class Request:
    """What is sent, time and again.

    Attributes:
        path: With `{key}` for the key of any of the rows.
        body: With `{number}` for any number: never twice the same, or a PUT would have nothing to do. May be empty.
    """

    method: str
    path: str
    body: str
    rows: int

    def fill_in(self, key: int, number: int) -> tuple[str, str]:
        """A path and a body to send."""
        return self.path.replace("{key}", str(key)), self.body.replace("{number}", str(number))

    def encode(self) -> bytes:
        """One request as it goes over the wire."""
        path, body = self.fill_in(random.randint(1, self.rows), random.randrange(10**9))
        head = f"{self.method} {path} HTTP/1.1\r\nHost: localhost\r\nX-User: bench\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return f"{head}\r\n{body}".encode()


@dataclass(frozen=True)
class Load:
    """What came back.

    Attributes:
        answers: Those that say 2xx.
        refused: Those that do not.
        broken: Connections that failed, and answers that did not come in 20 s.
    """

    answers: int
    refused: int
    broken: int
    seconds: float
    median_ms: float
    p99_ms: float


def send_once(port: int, request: Request) -> bytes:
    """The answer to the request with the first key.

    Raises:
        RuntimeError: It is not 2xx.
    """
    path, body = request.fill_in(1, 1)
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {"X-User": "bench", **({"Content-Type": "application/json"} if body else {})}
        connection.request(request.method, path, body or None, headers)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    if answer.status // 100 != 2:
        raise RuntimeError(f"{request.method} {path}: {answer.status} {content.decode(errors='replace')[:500]}")
    return content


def has_wrk() -> bool:
    return shutil.which("wrk") is not None


def describe_client() -> str:
    """Who sends the requests."""
    if has_wrk():
        return "wrk"
    return "a client in Python, which takes as much of the CPU as a server does: install wrk for more"


def load(port: int, request: Request, seconds: int) -> Load:
    """Send requests for so long, each connection the next one as soon as the last is answered."""
    return _load_with_wrk(port, request, seconds) if has_wrk() else asyncio.run(_load(port, request, seconds))


def _load_with_wrk(port: int, request: Request, seconds: int) -> Load:
    command = ["wrk", "--threads=1", f"--connections={CONNECTIONS}", f"--duration={seconds}s", "--timeout=20s"]
    command += ["--script", str(Path(__file__).with_name("load.lua")), f"http://127.0.0.1:{port}"]
    command += ["--", request.method, request.path, request.body, str(request.rows)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return Load(**json.loads(output.splitlines()[-1]))


class _Connection(asyncio.Protocol):
    def __init__(self, request: Request, until: float) -> None:
        self._request = request
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
        self._transport.write(self._request.encode())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0 or not self._is_complete(end):
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

    def _is_complete(self, end: int) -> bool:
        length = re.search(rb"content-length: *(\d+)", self._buffer[:end].lower())
        if length is None:
            # In chunks, of which the last is empty.
            return self._buffer.endswith(b"\r\n0\r\n\r\n")
        return len(self._buffer) >= end + 4 + int(length[1])

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and time.perf_counter() >= self._until:
            self.closed.set_result(None)
        else:
            self.closed.set_exception(error or ConnectionError("the server closed the connection"))


async def _load(port: int, request: Request, seconds: int) -> Load:
    loop = asyncio.get_running_loop()
    began = time.perf_counter()
    until = began + seconds
    made = [
        await loop.create_connection(lambda: _Connection(request, until), "127.0.0.1", port) for _ in range(CONNECTIONS)
    ]
    connections = [connection for _, connection in made]
    ended = await asyncio.gather(*(connection.closed for connection in connections), return_exceptions=True)
    latencies = sorted(latency for connection in connections for latency in connection.latencies)
    return Load(
        answers=len(latencies),
        refused=sum(connection.refused for connection in connections),
        broken=sum(isinstance(end, Exception) for end in ended),
        seconds=time.perf_counter() - began,
        median_ms=latencies[len(latencies) // 2] * 1000 if latencies else 0,
        p99_ms=latencies[len(latencies) * 99 // 100] * 1000 if latencies else 0,
    )
