"""Runs the blocks of a Markdown file as a reader would: one after another, in one folder and one namespace.

    python run_readme.py README.md [python console …]

- `python` blocks run; one that begins with a comment such as `# machine.py` is also saved as that file
- `console` blocks are sessions: what follows a line with `$` must be what the command prints, `…` standing for anything
- blocks that ask http://localhost:8000 ask the `app` that the blocks before them made, served on a free port
- a block after an HTML comment `<!-- not run: reason -->` is left out
"""

from __future__ import annotations

import doctest
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ADDRESS = re.compile(r"http://(localhost|127\.0\.0\.1):8000")
BLOCK = re.compile(
    r"(?:<!-- not run: (?P<reason>.*?) -->\s*)?"
    r"^(?P<fence>```+)(?P<language>python|console|sh)[^\n]*\n(?P<code>.*?)^(?P=fence)",
    re.M | re.S,
)
FILE = re.compile(r"# (\w+\.py)\n")
# Of this machine's SQLite, which is not what a document is about.
NOISE = re.compile(r"^.*WAL-reset bug.*\n", re.M)


class Block(NamedTuple):
    """One block of a file.

    Attributes:
        line: Where its code begins.
        not_run: Why it is left out, or None.
    """

    line: int
    language: str
    code: str
    not_run: str | None


def blocks_of(path: Path) -> list[Block]:
    text = path.read_text(encoding="utf-8")
    return [
        Block(text.count("\n", 0, found.start("code")) + 1, found["language"], found["code"], found["reason"])
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


def commands_of(session: str) -> Iterator[tuple[str, str]]:
    """The commands of a console session, each with what it prints."""
    for part in re.split(r"^\$ ", session, flags=re.M)[1:]:
        # A backslash at the end of a line goes on with the next one.
        command = re.match(r"(?:.*\\\n)*.*\n", part)
        assert command is not None
        yield command[0], part[command.end() :]


def run_session(session: str, where: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command, expected in commands_of(session):
        done = subprocess.run(
            ["bash", "-c", command],
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
            check=False,
        )
        printed = NOISE.sub("", done.stdout)
        if expected:
            wanted = expected.replace("…", "...").rstrip() + "\n"
            if not doctest.OutputChecker().check_output(wanted, printed.rstrip() + "\n", doctest.ELLIPSIS):
                raise AssertionError(f"{where}: {command}printed:\n{printed}instead of:\n{expected}")
        elif done.returncode:
            raise AssertionError(f"{where}: {command}failed with {done.returncode}:\n{printed}")


def run(path: Path, languages: list[str]) -> None:
    # A module of its own, because pydantic and FastAPI look names up in the module that a class comes from.
    names: dict[str, Any] = sys.modules["__main__"].__dict__
    servers = Servers()
    try:
        for block in blocks_of(path):
            if block.not_run is not None or block.language not in languages:
                continue
            code = block.code
            if ADDRESS.search(code) and "app" in names:
                code = ADDRESS.sub(servers.address_of(names["app"]), code)
            if block.language == "python":
                if file := FILE.match(code):
                    Path(file[1]).write_text(block.code, encoding="utf-8")
                # Blank lines first, so that a traceback names the line of the file.
                exec(compile("\n" * (block.line - 1) + code, str(path), "exec", dont_inherit=True), names)
            else:
                run_session(code, f"{path}:{block.line}")
    finally:
        servers.stop()


if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2:] or ["python"])
