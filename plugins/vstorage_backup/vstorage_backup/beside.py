"""Work on another core: SQLite, hashes and disks need no interpreter."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

ResultT = TypeVar("ResultT")


@contextmanager
def beside(name: str, work: Callable[[threading.Event], ResultT]) -> Iterator[Future[ResultT]]:
    """Do the work in a thread while the block runs; gives what will hold its result.

    Args:
        name: Of the thread.
        work: Called with an event that is set when the block has ended: then nobody needs the result any more, and
            it should end soon, which is waited for.
    """
    is_over = threading.Event()
    with ThreadPoolExecutor(1, f"vstorage-backup-{name}") as pool:
        try:
            yield pool.submit(work, is_over)
        finally:
            is_over.set()
