"""Runs the Python blocks of a Markdown file as a reader would: one after another, in one namespace.

    python run_readme.py README.md

Blocks that ask http://localhost:8000 ask the `app` that the blocks before them made, served on a free port. A block
after an HTML comment `<!-- not run: reason -->` is left out.
"""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path
from typing import Any, NamedTuple

ADDRESS = re.compile(r"http://(localhost|127\.0\.0\.1):8000")
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.*?) -->\s*)?^(?P<fence>```+)python[^\n]*\n(?P<code>.*?)^(?P=fence)", re.M | re.S
)


class Block(NamedTuple):
    """One Python block of a file.

    Attributes:
        line: Where its code begins.
        not_run: Why it is left out, or None.
    """

    line: int
    code: str
    not_run: str | None


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, found.start("code")) + 1, found["code"], found["reason"])
        for found in BLOCK.finditer(text)
    ]


class Servers:
    """Serves each app once, on a port of its own."""

    def __init__(self) -> None:
        self._addresses: dict[int, str] = {}
        self._running: list[tuple[Any, threading.Thread]] = []

    def address_of(self, app: Any) -> str:
        import uvicorn

        if id(app) not in self._addresses:
            config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning")
            server, listener = uvicorn.Server(config), config.bind_socket()
            # Now, or a request that is faster than the server's start is refused.
            listener.listen()
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            self._running.append((server, thread))
            self._addresses[id(app)] = f"http://localhost:{listener.getsockname()[1]}"
        return self._addresses[id(app)]

    def stop(self) -> None:
        for server, thread in self._running:
            server.should_exit = True
            thread.join(10)


def run(path: Path) -> None:
    # A module of its own, because pydantic and FastAPI look names up in the module that a class comes from.
    names: dict[str, Any] = sys.modules["__main__"].__dict__
    servers = Servers()
    try:
        for block in blocks_of(path):
            if block.not_run is None:
                code = block.code
                if ADDRESS.search(code):
                    code = ADDRESS.sub(servers.address_of(names["app"]), code)
                # Blank lines first, so that a traceback names the line of the file.
                exec(compile("\n" * (block.line - 1) + code, str(path), "exec", dont_inherit=True), names)
    finally:
        servers.stop()


if __name__ == "__main__":
    run(Path(sys.argv[1]))
