"""Which standby of a PostgreSQL primary may answer a read: one that is there, not too old, and has our own writes.

Positions in the primary's log say so, and no clock of another machine. The primary is asked for its position from
time to time and after each of our writes; a standby is as old as the last of these positions that it has reached.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from vstorage_core.errors import StorageError

logger = logging.getLogger("vstorage")

_PRIMARY = (
    "SELECT CAST(pg_current_wal_insert_lsn() - CAST('0/0' AS pg_lsn) AS bigint), system_identifier"
    " FROM pg_control_system()"
)
_STANDBY = (
    "SELECT CAST(pg_last_wal_replay_lsn() - CAST('0/0' AS pg_lsn) AS bigint), system_identifier"
    " FROM pg_control_system() WHERE pg_is_in_recovery()"
)
_LOOK_AGAIN_SECONDS = 0.1
_SHORTEST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 30.0


class _Replica:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.state = "not asked yet"
        self.lag_seconds: float | None = None
        self.ask_at = 0.0
        self._pause_seconds = _SHORTEST_PAUSE_SECONDS

    def ask(self) -> tuple[int, int] | None:
        """Position and system identifier, or None when it is no use."""
        try:
            answer = _ask(self.engine, _STANDBY)
        except (StorageError, SQLAlchemyError) as error:
            # SQLAlchemy's own text would tell the statement.
            self.rest(f"cannot be asked: {error if isinstance(error, StorageError) else type(error).__name__}")
            return None
        if answer is None:
            self.rest("not a standby")
        return answer

    def rest(self, state: str) -> None:
        """Leave it alone for a while, longer each time."""
        self.ask_at = time.monotonic() + self._pause_seconds
        self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)
        self.become(state)

    def become(self, state: str, lag_seconds: float | None = None) -> None:
        if (state in _WELL) != (self.state in _WELL):
            log = logger.info if state in _WELL else logger.warning
            log("replica %s: %s", self.engine.url.render_as_string(), state)
        if state in _WELL:
            self._pause_seconds = _SHORTEST_PAUSE_SECONDS
        self.state, self.lag_seconds = state, lag_seconds


_WELL = ("ok", "behind")


class Replicas:
    """The standbys of one primary.

    Attributes:
        engines: Theirs.
    """

    def __init__(self, primary: Engine, engines: Sequence[Engine], lag_limit_seconds: float) -> None:
        self.engines = tuple(engines)
        self._primary = primary
        self._lag_limit_seconds = lag_limit_seconds
        self._replicas = [_Replica(engine) for engine in engines]
        # In an order of this process's own: the load is spread, and whoever reads twice sees the same one's answers.
        self._preferred = random.sample(self._replicas, len(engines))
        self._turn = threading.Lock()
        self._look_at = 0.0
        # Positions of the primary with a time when it had not passed them yet.
        self._positions: deque[tuple[float, int]] = deque()
        self._system: int | None = None
        # Our last write, the last one that `_needed` covers, and the one after which `_usable` was looked for.
        self._write: object = object()
        self._covered: object = None
        self._needed = 0
        self._usable: tuple[object, Sequence[Engine]] = (None, ())

    def wrote(self) -> None:
        """From now on only a standby will do that has what this process has committed."""
        self._write = object()
        self._look_at = min(self._look_at, time.monotonic() + _LOOK_AGAIN_SECONDS)

    def choose(self) -> Engine:
        """The engine for a read that begins now: a standby's, or the primary's."""
        # Nobody waits for the one who looks.
        if time.monotonic() >= self._look_at and self._turn.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._turn.release()
        write, usable = self._usable
        return usable[0] if usable and write is self._write else self._primary

    def failed(self, engine: Engine) -> None:
        """A read on it failed: use it no more until it has answered again."""
        write, usable = self._usable
        self._usable = (write, [other for other in usable if other is not engine])
        self._look_at = min(self._look_at, time.monotonic() + _LOOK_AGAIN_SECONDS)

    def report(self) -> list[dict[str, Any]]:
        """State and lag of each, in the order in which they were given, as of now."""
        with self._turn:
            self._look()
            return [{"state": replica.state, "lag_seconds": replica.lag_seconds} for replica in self._replicas]

    def _look(self) -> None:
        write, now = self._write, time.monotonic()
        self._ask_primary(write, now)
        usable = []
        for replica in self._preferred:
            answer = replica.ask() if now >= replica.ask_at else None
            if answer is None:
                continue
            position, system = answer
            if self._system is not None and system != self._system:
                replica.rest("not a standby of this database")
                continue
            lag_seconds = self._lag_seconds(position)
            is_young = lag_seconds is not None and lag_seconds <= self._lag_limit_seconds
            is_usable = is_young and position >= self._needed and self._covered is write
            replica.become("ok" if is_usable else "behind", lag_seconds)
            if is_usable:
                usable.append(replica.engine)
        self._usable = (write, usable)
        is_waiting = any(replica.state == "behind" for replica in self._replicas)
        pause = _LOOK_AGAIN_SECONDS if is_waiting or write is not self._write else min(1.0, self._lag_limit_seconds / 4)
        self._look_at = time.monotonic() + pause

    def _ask_primary(self, write: object, now: float) -> None:
        try:
            answer = _ask(self._primary, _PRIMARY)
        except (StorageError, SQLAlchemyError):
            return  # standbys go on answering for as long as their answers are young enough
        assert answer is not None  # noqa: S101 (there is no condition)
        position, self._system = answer
        self._positions.append((now, position))
        # The youngest of those that are too old still tells how old a standby is.
        while len(self._positions) > 1 and self._positions[1][0] < now - self._lag_limit_seconds:
            self._positions.popleft()
        if self._covered is not write:
            self._needed, self._covered = position, write

    def _lag_seconds(self, position: int) -> float | None:
        reached = [moment for moment, passed in self._positions if passed <= position]
        return round(time.monotonic() - max(reached), 3) if reached else None


def _ask(engine: Engine, question: str) -> tuple[int, int] | None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        row = connection.exec_driver_sql(question).one_or_none()
    return None if row is None else (int(row[0]), int(row[1]))
