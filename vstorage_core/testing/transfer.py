"""What the contracts of exporters and importers share: difficult streams, and checks of what is declared."""

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from vstorage_core import Progress


class Sink(io.RawIOBase):
    """A stream that can only be written, like a socket.

    Args:
        keep: Whether what is written is kept in `content`.
        room: How many bytes it takes before it fails with `failure`.
        on_first_write: Called before the first bytes are taken.

    Attributes:
        size: How many bytes were written.
    """

    def __init__(
        self, *, keep: bool = True, room: int | None = None, on_first_write: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__()
        self.content = bytearray()
        self.size = 0
        self.failure = OSError(28, "No space left on device")
        self._keep, self._room, self._on_first_write = keep, room, on_first_write

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.size == 0:
            self._on_first_write()
        self.size += len(data)
        if self._room is not None and self.size > self._room:
            raise self.failure
        if self._keep:
            self.content += data
        return len(data)


class FailingSource(io.RawIOBase):
    """A stream whose second half cannot be read."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self._stream = io.BytesIO(content)
        self._readable_bytes = len(content) // 2

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        return self._stream.seek(offset, whence)

    def readinto(self, buffer: Any, /) -> int:
        size = self._stream.readinto(buffer)
        if self._stream.tell() > self._readable_bytes:
            raise OSError(5, "Input/output error")
        return size


def only(names: list[str], fixture: str) -> str:
    """The name, where there is just one to choose from."""
    if len(names) != 1:
        pytest.fail(f"give your test class a fixture `{fixture}`; the plugin has {', '.join(names) or 'none'}")
    return names[0]


def check_declaration(name: str, path: str, summary: str, options: type[BaseModel]) -> None:
    """Names that are fit for a command line and a URL, and a text and a check for every option."""
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*", name), f"{name!r} is no name for a command line"
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", path), f"{path!r} would need quoting in a URL or on a disk"
    assert summary, "it has no summary, for help texts and OpenAPI"
    assert [option for option, field in options.model_fields.items() if not field.description] == [], "not described"
    assert options.model_config.get("extra") == "forbid", (
        f'{options.__name__} takes options that it does not know; add model_config = ConfigDict(extra="forbid")'
    )


def check_progress(seen: list[Progress]) -> None:
    """It only goes on, never past its end."""
    reached: dict[str, int] = {}
    for step in seen:
        assert reached.get(step.label, 0) <= step.done, f"goes back: {step}"
        assert step.total is None or step.done <= step.total, f"goes past its end: {step}"
        reached[step.label] = step.done


def files_below(folder: Path) -> set[str]:
    """Names of the files; those that SQLite keeps beside an open database do not count."""
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith(("-wal", "-shm", "-journal"))
    }
