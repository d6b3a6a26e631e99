"""How requests take turns with the database: a thread works off what waits, and commits once for many writes."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar
from weakref import WeakKeyDictionary

from starlette.concurrency import run_in_threadpool

from vstorage_core import Storage, StorageUnavailable

ResultT = TypeVar("ResultT")

# How long a thread goes on before what it has done is answered.
_BATCH_SECONDS = 0.005


class Turn:
    """Lets requests do their work in a thread one after the other.

    `sqlite3` lets go of the interpreter at every row: eight threads that read or write at once take three times the
    time that they take in turn. And the way to a thread and back costs more than most of the work, so the thread does
    all that waits. It is no lock: who has waited long enough for somebody slow gets a thread of its own.

    Args:
        storage: The database.
        patience_seconds: How long is long enough.
    """

    def __init__(self, storage: Storage, patience_seconds: float) -> None:
        self._storage = storage
        self._patience_seconds = patience_seconds
        self._queues: WeakKeyDictionary[asyncio.AbstractEventLoop, _Queue] = WeakKeyDictionary()

    async def run(self, work: Callable[[], ResultT], *, joins: bool = False) -> ResultT:
        """The result of `work` in its turn.

        Args:
            work: Runs in a thread.
            joins: It may be part of a transaction with others: what it raises undoes it alone, and where that
                transaction cannot commit, it may run once more.
        """
        loop = asyncio.get_running_loop()
        queue = self._queues.get(loop)
        if queue is None:
            queue = self._queues[loop] = _Queue(self._storage, self._patience_seconds)
        job = _Job(work, joins, loop.create_future())
        queue.add(job)
        await job.is_done
        if job.error is not None:
            raise job.error
        result: ResultT = job.result
        return result


class Turns:
    """The turns of a storage: a writer waits for the disk, and a reader may use that time."""

    def __init__(self, storage: Storage) -> None:
        self.reading = Turn(storage, 0.25)
        # Past it they wait for the storage's own turn to write, which has a deadline.
        self.writing = Turn(storage, 1.0)


@dataclass(eq=False)
class _Job:
    """The work of one request, in its context variables."""

    work: Callable[[], Any]
    joins: bool
    is_done: asyncio.Future[None]
    context: contextvars.Context = field(default_factory=contextvars.copy_context)
    result: Any = None
    error: BaseException | None = None

    def run(self, within: AbstractContextManager[Any]) -> None:
        try:
            self.result = self.context.run(self._work_within, within)
        except BaseException as error:
            self.error = error

    def _work_within(self, within: AbstractContextManager[Any]) -> Any:
        with within:
            return self.work()


class _Queue:
    """What waits in one event loop, and the threads that work it off: one, and another when that one is slow."""

    def __init__(self, storage: Storage, patience_seconds: float) -> None:
        self._storage = storage
        self._patience_seconds = patience_seconds
        self._waiting: deque[_Job] = deque()
        self._taking = threading.Lock()
        self._done: deque[_Job] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, job: _Job) -> None:
        self._waiting.append(job)
        if not self._tasks:
            self._begin()

    def _begin(self) -> None:
        task = asyncio.get_running_loop().create_task(self._work())
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        failure = asyncio.CancelledError() if task.cancelled() else task.exception()
        while failure is not None and (job := self._next()) is not None:
            # No thread can be had, e.g. because the server stops: to begin again might go on for ever.
            job.error = failure
            self._done.append(job)
        self._answer()
        if self._waiting and not self._tasks:
            self._begin()

    async def _work(self) -> None:
        impatient = asyncio.get_running_loop().call_later(self._patience_seconds, self._overtake)
        try:
            await run_in_threadpool(self._work_off)
        finally:
            impatient.cancel()

    def _overtake(self) -> None:
        self._answer()
        if self._waiting:
            self._begin()

    def _answer(self) -> None:
        while self._done:
            is_done = self._done.popleft().is_done
            if not is_done.done():  # the request may have been cancelled
                is_done.set_result(None)

    # In a thread

    def _work_off(self) -> None:
        deadline = time.monotonic() + _BATCH_SECONDS
        while (job := self._next()) is not None:
            if job.joins and self._waiting:
                self._do_together(job, deadline)
            else:
                job.run(nullcontext())
                self._done.append(job)
            if time.monotonic() > deadline:
                return

    def _do_together(self, first: _Job, deadline: float) -> None:
        """Do it and those behind it in one transaction."""
        jobs = [first]
        try:
            with self._storage.transaction() as session:
                first.run(self._storage.use_session(session))
                while time.monotonic() < deadline and (job := self._next(joining=True)) is not None:
                    jobs.append(job)
                    job.run(self._storage.use_session(session))
        except StorageUnavailable as error:
            for job in jobs:
                job.error = job.error or error
        except BaseException:
            # One made the commit fail, e.g. by a deferred constraint: alone, each learns whether it was to blame.
            for job in jobs:
                if job.error is None:
                    job.run(nullcontext())
        self._done += jobs

    def _next(self, *, joining: bool = False) -> _Job | None:
        """Take the job that has waited longest, if it joins others or need not; drop those that were given up."""
        with self._taking:
            while self._waiting and (self._waiting[0].joins or not joining):
                job = self._waiting.popleft()
                if not job.is_done.cancelled():
                    return job
        return None


def in_turn(storage_of: Callable[[], Storage], kind: Literal["reading", "writing"]) -> Callable[..., Any]:
    """Decorates an endpoint that runs in a thread: on SQLite it does so in its turn."""

    def decorate(endpoint: Callable[..., ResultT]) -> Callable[..., Coroutine[Any, Any, ResultT]]:
        @functools.wraps(endpoint)
        async def run(**arguments: Any) -> ResultT:
            return await take_turn(storage_of(), kind, functools.partial(endpoint, **arguments))

        return run

    return decorate


async def take_turn(
    storage: Storage, kind: Literal["reading", "writing"], work: Callable[[], ResultT], *, joins: bool = False
) -> ResultT:
    """The result of `work`, which runs in a thread: on SQLite in its turn, as `Turn.run` says."""
    if not storage.takes_turns:
        return await run_in_threadpool(work)
    turns = storage.extensions.get("rest.turns")
    if turns is None:
        turns = storage.extensions["rest.turns"] = Turns(storage)
    turn: Turn = turns.reading if kind == "reading" else turns.writing
    return await turn.run(work, joins=joins)
