"""Disks for SQLite: one that records what it is told, so that power cuts can be simulated; a slow one; a full one."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal, NamedTuple

import apsw

SECTOR_BYTES = 512
_JOURNALS = apsw.SQLITE_OPEN_MAIN_JOURNAL | apsw.SQLITE_OPEN_SUPER_JOURNAL | apsw.SQLITE_OPEN_WAL
_numbers = itertools.count()


class Event(NamedTuple):
    """Something that SQLite told the disk to do. `truncate` cuts to `offset`; `sync_folder` is about files' names."""

    what: Literal["write", "truncate", "sync", "delete", "sync_folder"]
    path: str
    offset: int = 0
    data: bytes = b""


class _Disk(apsw.VFS):
    def __init__(self) -> None:
        self.vfs_name = f"vstorage-test-{next(_numbers)}"
        # The base "" is SQLite's usual one.
        super().__init__(self.vfs_name, "")

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        self.unregister()


class RecordingDisk(_Disk):
    """Notes in `events` what is written, synced and deleted. Syncs cost nothing: the test's machine does not fail."""

    def __init__(self) -> None:
        super().__init__()
        self.events: list[Event] = []

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        if name is None:
            return apsw.VFSFile("", name, flags)
        return _RecordedFile(self.events, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        super().xDelete(filename, syncdir)
        self.events.append(Event("delete", filename))
        if syncdir:
            self.events.append(Event("sync_folder", filename))


class _RecordedFile(apsw.VFSFile):
    def __init__(self, events: list[Event], name: Any, flags: list[int]) -> None:
        self._events = events
        self._path = name if isinstance(name, str) else name.filename()
        # Like SQLite's own unix VFS: the first sync of a journal that may be new syncs its folder, too.
        self._syncs_folder = bool(flags[0] & apsw.SQLITE_OPEN_CREATE and flags[0] & _JOURNALS)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        super().xWrite(data, offset)
        self._events.append(Event("write", self._path, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:
        super().xTruncate(newsize)
        self._events.append(Event("truncate", self._path, newsize))

    def xSync(self, flags: int) -> None:
        self._events.append(Event("sync", self._path))
        if self._syncs_folder:
            self._events.append(Event("sync_folder", self._path))
            self._syncs_folder = False


class SlowDisk(_Disk):
    """Every sync takes so many seconds more."""

    def __init__(self, sync_seconds: float) -> None:
        super().__init__()
        self.sync_seconds = sync_seconds
        self.syncs = 0

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _SlowFile(self, name, flags)


class _SlowFile(apsw.VFSFile):
    def __init__(self, disk: SlowDisk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        super().__init__("", name, flags)

    def xSync(self, flags: int) -> None:
        time.sleep(self._disk.sync_seconds)
        super().xSync(flags)
        self._disk.syncs += 1


class FullDisk(_Disk):
    """While `is_full`, the log takes what is written and the database file does not: so are they on a full disk."""

    is_full = False

    def xOpen(self, name: Any, flags: list[int]) -> apsw.VFSFile:
        return _RefusingFile(self, name, flags)


class _RefusingFile(apsw.VFSFile):
    def __init__(self, disk: FullDisk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._is_database = bool(flags[0] & apsw.SQLITE_OPEN_MAIN_DB)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._disk.is_full and self._is_database:
            raise apsw.FullError("database or disk is full")
        super().xWrite(data, offset)


@dataclass
class _File:
    """What is surely on the disk (None: no such file), and what the file was told since its last sync."""

    content: bytearray | None = None
    pending: list[Event] = field(default_factory=list)

    def settle_deletion(self) -> None:
        for position in reversed(range(len(self.pending))):
            if self.pending[position].what == "delete":
                self.content = None
                del self.pending[: position + 1]
                return


def power_cuts(events: Sequence[Event], positions: Sequence[int], random: Random) -> Iterator[dict[str, bytes]]:
    """What the files may hold when the power fails after so many events, for each position in turn (ascending).

    What was synced is there. Of what was not, each sector of 512 bytes, each truncation and each deletion may have
    reached the disk or not, whatever came before or after it.
    """
    files: dict[str, _File] = {}
    done = 0
    for position in positions:
        for event in events[done:position]:
            file = files.setdefault(event.path, _File())
            if event.what == "sync":
                for pending in file.pending:
                    file.content = _apply(file.content, pending)
                file.pending.clear()
            elif event.what == "sync_folder":
                for other in files.values():
                    other.settle_deletion()
            else:
                file.pending.append(event)
        done = position
        # Now and then nothing or all of it arrives, most often a part.
        chance = random.choice([0.0, 0.1, 0.5, 0.9, 0.99, 1.0])
        survivors = {path: _survivor(file, chance, random) for path, file in files.items()}
        yield {path: bytes(content) for path, content in survivors.items() if content is not None}


def _survivor(file: _File, chance: float, random: Random) -> bytearray | None:
    content = None if file.content is None else bytearray(file.content)
    for event in file.pending:
        if event.what == "write":
            for sector in _sectors(event):
                if random.random() < chance:
                    content = _apply(content, sector)
        elif random.random() < chance:
            content = _apply(content, event)
        elif event.what == "delete":
            # What was written to a new file of the name is in no folder.
            break
    return content


def _apply(content: bytearray | None, event: Event) -> bytearray | None:
    if event.what == "delete":
        return None
    content = bytearray() if content is None else content
    if event.what == "truncate":
        del content[event.offset :]
        return content
    if len(content) < event.offset:
        content.extend(bytes(event.offset - len(content)))
    content[event.offset : event.offset + len(event.data)] = event.data
    return content


def _sectors(event: Event) -> Iterator[Event]:
    start, end = event.offset, event.offset + len(event.data)
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        yield Event("write", event.path, start, event.data[start - event.offset : stop - event.offset])
        start = stop
