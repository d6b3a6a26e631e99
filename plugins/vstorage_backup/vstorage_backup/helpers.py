"""Work on other cores: SQLite, hashes and disks need no interpreter."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TypeVar

ResultT = TypeVar("ResultT")


class Helpers:
    """Threads for the cores that their user does not need, at least one; as a context manager, ends them.

    With more threads than cores the user would wait for what they do and nobody needs yet: a restore on two cores took
    a quarter longer.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max(1, (os.cpu_count() or 1) - 1), "vstorage-backup")

    def __enter__(self) -> Helpers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    @contextmanager
    def doing(self, work: Callable[[threading.Event], ResultT]) -> Iterator[Future[ResultT]]:
        """Do the work while the block runs, what was asked for first before the rest; gives what will hold its result.

        Args:
            work: Called with an event that is set when the block has ended: then nobody needs the result any more, and
                it should end soon, which is waited for.
        """
        is_over = threading.Event()
        future = self._pool.submit(work, is_over)
        try:
            yield future
        finally:
            is_over.set()
            if not future.cancel():
                wait([future])
