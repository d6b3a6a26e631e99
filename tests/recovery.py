"""What must hold in a database file after whatever has happened to it; read with plain sqlite3 and no code of ours."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from workload import Acknowledgement

TABLES = {"users": "users", "counters": "counter"}
Rows = dict[int, dict[str, Any]]


class Row(NamedTuple):
    """One row of the audit trail."""

    id: int
    component: str
    record_id: str
    operation: str
    actor: str
    reason: str | None
    before: str | None
    after: str | None


class Found(NamedTuple):
    """What a database holds: its audit trail, oldest first, and the rows of each component."""

    trail: list[Row]
    rows: dict[str, Rows]


def read_whole(path: Path) -> Found:
    """Open the file and read everything; fails when the database or its audit trail is not whole.

    Raises:
        AssertionError: Something does not fit.
        sqlite3.DatabaseError: The file is damaged so badly that SQLite does not read it.
    """
    with closing(sqlite3.connect(path)) as connection:
        # Closing writes the log back; nobody needs that synced.
        connection.execute("PRAGMA synchronous = OFF")
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        found = _read(connection)
    _check_chain(found)
    _check_operations(found.trail)
    return found


def _read(connection: sqlite3.Connection) -> Found:
    existing = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if "auditlog" not in existing:
        return Found([], {component: {} for component in TABLES})
    columns = ", ".join(Row._fields)
    trail = [Row(*row) for row in connection.execute(f"SELECT {columns} FROM auditlog ORDER BY id")]
    rows: dict[str, Rows] = {}
    for component, table in TABLES.items():
        cursor = connection.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
        rows[component] = {row["id"]: row for row in (dict(zip(names, values, strict=True)) for values in cursor)}
    return Found(trail, rows)


def _check_chain(found: Found) -> None:
    """Each `before` is the previous `after`, no key is used twice, and the last `after` is what is stored."""
    state: dict[str, Rows] = {component: {} for component in TABLES}
    used: set[tuple[str, int]] = set()
    for row in found.trail:
        rows, key = state[row.component], int(row.record_id)
        before = None if row.before is None else json.loads(row.before)
        assert rows.get(key) == before, f"the chain is broken at {row}"
        if before is None:
            assert (row.component, key) not in used, f"a key is used again: {row}"
            used.add((row.component, key))
        if row.after is None:
            del rows[key]
        else:
            rows[key] = json.loads(row.after)
    for component, rows in state.items():
        replayed = {key: _comparable(row) for key, row in rows.items()}
        stored = {key: _comparable(row) for key, row in found.rows[component].items()}
        assert stored == replayed, f"{component}: the rows are not what the audit trail tells"


def _comparable(row: dict[str, Any]) -> dict[str, Any]:
    # In JSON 2026-01-02T03:04:05Z, in SQLite 2026-01-02 03:04:05 in UTC.
    if row.get("deleted_at"):
        moment = datetime.fromisoformat(row["deleted_at"].removesuffix("Z").removesuffix("+00:00"))
        return {**row, "deleted_at": moment}
    return row


def _check_operations(trail: Iterable[Row]) -> None:
    """Every operation is there with all its steps, every step with all its rows."""
    operations: dict[str, Counter[str]] = defaultdict(Counter)
    for row in trail:
        assert not row.actor.startswith("refused"), f"an undone write was stored: {row}"
        if row.reason is not None:
            operations[row.actor][row.reason] += 1
    for actor, reasons in operations.items():
        places = set()
        for reason, count in reasons.items():
            step, steps, rows = map(int, re.fullmatch(r"(\d+) of (\d+), (\d+) rows", reason).groups())
            assert count == rows, f"{actor} is half: {count} rows of {reason}"
            places.add(step)
        assert places == set(range(1, steps + 1)), f"{actor} is half: steps {sorted(places)} of {steps}"


def lost(trail: Iterable[Row], acknowledged: Iterable[Acknowledgement]) -> list[Acknowledgement]:
    """The acknowledged operations that the trail does not hold exactly as acknowledged."""
    stored: dict[str, Counter[tuple[Any, ...]]] = defaultdict(Counter)
    for row in trail:
        after = {} if row.after is None else json.loads(row.after)
        value = after.get("name", after.get("value"))
        stored[row.actor][row.component, row.operation, int(row.record_id), value] += 1
    return [
        operation for operation in acknowledged if Counter(map(tuple, operation.effects)) != stored[operation.actor]
    ]
