"""Threads of one process take turns: writers in a queue, readers of rows two at a time."""

from __future__ import annotations

import asyncio
import collections
import os
import threading
from typing import NamedTuple

from vstorage_core.errors import StorageBusy, TransactionError


class Owner(NamedTuple):
    """Who runs: the process (a fork copies the rest), the thread, and the asyncio task where there is one."""

    process: int
    thread: int
    task: object


class WriteGate:
    """First in, first out: threads take turns to write, in the order in which they came.

    SQLite's own `busy_timeout` polls, so under load some writers starve while others run.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._queue: collections.deque[threading.Lock] = collections.deque()
        self._holder: Owner | None = None

    def acquire(self, timeout_seconds: float) -> None:
        """Wait for the turn.

        Raises:
            StorageBusy: It did not come in time.
            TransactionError: It cannot come: another task of this thread's event loop holds it.
        """
        me = current_owner()
        with self._mutex:
            if self._holder is None:
                self._holder = me
                return
            if me.task is not None and self._holder.thread == me.thread:
                raise TransactionError(
                    "another task of this event loop has a write transaction open and could never end it while this one"
                    " waits; leave the `with transaction():` block before awaiting"
                )
            turn = threading.Lock()
            turn.acquire()
            self._queue.append(turn)
        if not turn.acquire(timeout=timeout_seconds):
            with self._mutex:
                if turn in self._queue:
                    self._queue.remove(turn)
                    raise StorageBusy(f"other writers held the database for {timeout_seconds:g} s; try again")
            # The turn came between the deadline and the mutex.
        self._holder = me

    def release(self) -> None:
        """Hand the turn to whoever waits longest."""
        with self._mutex:
            if self._queue:
                # Never free in between, or a newcomer would slip in.
                self._holder = Owner(0, 0, None)
                self._queue.popleft().release()
            else:
                self._holder = None


class ReadTurns:
    """Two threads at a time go through rows; the others wait for them, though not for long.

    sqlite3 lets go of the interpreter at every row. Many threads that do so at once are busy handing it to each other:
    of 32 readers each took four times as much of the CPU per record as one alone.

    Args:
        longest_wait_seconds: Who has waited so long goes ahead without a turn: turns save time, and nothing else hangs
            on them.
    """

    def __init__(self, longest_wait_seconds: float = 0.1) -> None:
        self.locks = (threading.Lock(), threading.Lock())
        self.longest_wait_seconds = longest_wait_seconds

    def all_taken(self) -> bool:
        """Whether who reads now would wait."""
        one, other = self.locks
        return one.locked() and other.locked()


class ReadTurn:  # a class, because a generator costs three times as much
    """One of them, while a few rows are read."""

    __slots__ = ("_mine", "_turns")

    def __init__(self, turns: ReadTurns) -> None:
        self._turns = turns
        self._mine: threading.Lock | None = None

    def __enter__(self) -> None:
        one, other = self._turns.locks
        if one.acquire(blocking=False):
            self._mine = one
        elif other.acquire(timeout=self._turns.longest_wait_seconds):
            self._mine = other

    def __exit__(self, *_: object) -> None:
        if self._mine is not None:
            self._mine.release()


class _Thread(threading.local):
    owner: Owner | None = None


_thread = _Thread()


def current_owner() -> Owner:
    """Who is running here and now."""
    # asyncio.current_task() raises where no loop runs, which costs more than all the rest.
    loop = asyncio._get_running_loop()
    if loop is not None:
        return Owner(os.getpid(), threading.get_ident(), asyncio.current_task(loop))
    # Each operation asks, and this is a third of what making it anew costs.
    if _thread.owner is None:
        _thread.owner = Owner(os.getpid(), threading.get_ident(), None)
    return _thread.owner


def _forget_owner() -> None:
    _thread.owner = None


if hasattr(os, "register_at_fork"):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=_forget_owner)
