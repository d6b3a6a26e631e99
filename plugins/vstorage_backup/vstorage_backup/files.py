"""Temporary files that vanish with their process, and files that appear whole or not at all."""

from __future__ import annotations

import io
import logging
import os
import shutil
import stat
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from vstorage_core import StorageUnavailable

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger("vstorage.backup")

SUFFIX = ".tmp"
_EARLY_BYTES = 1 << 22


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Hold a file that is made for it, so that no other process or thread can; removes it at the end.

    Gives False, and does nothing, when another one holds it. A killed holder holds nothing.

    Raises:
        StorageUnavailable: The folder cannot be written to.
    """
    descriptor = _claimed_or_unavailable(path)
    if descriptor is None:
        yield False
        return
    try:
        yield True
    finally:
        _remove_claimed(path, descriptor)


@contextmanager
def temporary_file(folder: Path, name: str) -> Iterator[Path]:
    """A new, empty file that only its owner may read; removed at the end, or at the next start after a kill.

    Raises:
        StorageUnavailable: The folder cannot be written to.
    """
    path = folder / f".{name}.{uuid.uuid4().hex}{SUFFIX}"
    descriptor = _claimed_or_unavailable(path)
    assert descriptor is not None  # noqa: S101 (nobody else knows the name)
    try:
        yield path
    finally:
        _remove_claimed(path, descriptor)


def remove_leftovers(folder: Path, name: str) -> list[Path]:
    """Remove the temporary files of processes that were killed; returns what was removed."""
    removed = []
    for path in folder.glob(f".{_escaped(name)}.*{SUFFIX}"):
        try:
            descriptor = _claim(path)
            if descriptor is not None:
                _remove_claimed(path, descriptor)
                removed.append(path)
        except OSError as error:
            # Of another user, or on a disk that cannot be written to: no reason not to start.
            logger.warning("%s, left by a process that was killed, cannot be removed: %s", path, error.strerror)
    return removed


def file_of(stream: BinaryIO) -> Path | None:
    """The file that the stream writes to, if it is an ordinary one, with a name, in which nothing stands yet."""
    if not isinstance(stream, io.BufferedWriter | io.BufferedRandom):
        return None
    path = _ordinary_file(stream)
    return path if path is not None and not path.stat().st_size and not stream.tell() else None


def source_of(stream: BinaryIO) -> Path | None:
    """The file that the stream reads, if it is an ordinary one with a name."""
    return _ordinary_file(stream) if isinstance(stream, io.BufferedReader) else None


def _ordinary_file(stream: io.BufferedReader | io.BufferedWriter | io.BufferedRandom) -> Path | None:
    if not isinstance(stream.raw, io.FileIO):
        return None
    try:
        path = Path(os.fsdecode(stream.name)).resolve()
        status = os.fstat(stream.fileno())
        is_its_name = os.path.samestat(status, path.lstat())
    # A descriptor in place of a name, or one that is no longer there.
    except (TypeError, OSError):
        return None
    return path if is_its_name and stat.S_ISREG(status.st_mode) else None


@contextmanager
def early_writes(path: Path, *, is_kept: bool = True) -> Iterator[Callable[[], int]]:
    """Gives a function that lets the disk begin with what is in the growing file; it returns the file's size.

    So the disk works while the file is made, and the sync at the end has little left to wait for.

    Args:
        path: The file.
        is_kept: Without this, nothing is begun.
    """
    begun = 0

    def begin() -> int:
        nonlocal begun
        size = os.fstat(descriptor).st_size
        # In large pieces: with small ones a backup took a tenth longer.
        if is_kept and size - begun >= _EARLY_BYTES and sys.platform == "linux":
            # Before it forgets pages, Linux begins to write them: mm/fadvise.c.
            os.posix_fadvise(descriptor, begun, size - begun, os.POSIX_FADV_DONTNEED)
            begun = size
        return size

    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield begin
    finally:
        os.close(descriptor)


def lock_path(folder: Path, name: str, what: str) -> Path:
    """The file that whoever does `what` claims."""
    return folder / f".{name}.{what}{SUFFIX}"


def require_space(folder: Path, needed_bytes: int, min_free_bytes: int, what: str) -> None:
    """Refuse what would fill the disk.

    Raises:
        StorageUnavailable: Less than `needed_bytes` + `min_free_bytes` are free.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise StorageUnavailable(f"the folder for {what} cannot be used: {error.strerror}") from error
    if free < needed_bytes + min_free_bytes:
        raise StorageUnavailable(
            f"{what} needs {_megabytes(needed_bytes)} of disk and {_megabytes(min_free_bytes)} must stay free, but only"
            f" {_megabytes(free)} are; make room"
        )


def publish(path: Path, final: Path, like: Path | None = None) -> None:
    """Give a finished file its name, so that it is there even after a power cut.

    Args:
        path: The finished file.
        final: Its name, in the same folder.
        like: Whoever may read this file may read the published one.
    """
    if like is not None:
        path.chmod(like.stat().st_mode & 0o666)
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())
    path.replace(final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Make what was created, renamed or removed in the folder survive a power cut."""
    if sys.platform != "win32":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _claimed_or_unavailable(path: Path) -> int | None:
    try:
        return _claim(path)
    except OSError as error:
        raise StorageUnavailable(f"no temporary file can be made in {path.parent.name!r}: {error.strerror}") from error


if sys.platform == "win32":

    def _claim(path: Path) -> int | None:
        # A file that is open cannot be removed there.
        try:
            path.unlink(missing_ok=True)
            return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        except (PermissionError, FileExistsError):
            return None

    def _remove_claimed(path: Path, descriptor: int) -> None:
        os.close(descriptor)
        path.unlink(missing_ok=True)

else:

    def _claim(path: Path) -> int | None:
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Its last holder may have removed it between our two calls; then it is not the file of that name.
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    return descriptor
            except FileNotFoundError:
                pass
            except BlockingIOError:
                os.close(descriptor)
                return None
            os.close(descriptor)

    def _remove_claimed(path: Path, descriptor: int) -> None:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _escaped(name: str) -> str:
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def _megabytes(size: int) -> str:
    return f"{size / 1_000_000:,.1f} MB"
