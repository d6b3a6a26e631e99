"""The rows that every contender stores. Runs on any Python with nothing installed, as the original's is another one."""

from __future__ import annotations

import json
import random
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any

Row = dict[str, Any]
FIELDS = ("name", "email", "quantity", "price", "active", "created_at", "notes", "deleted_at")
START = datetime(2026, 1, 1, tzinfo=timezone.utc)


def make_rows(count: int, *, zone: tzinfo | None, first: int = 1, seed: int = 1) -> list[Row]:
    """Rows as a caller has them, always the same for one seed; `zone` None for libraries that store naive times."""
    chance = random.Random(seed)
    return [
        {
            "name": f"Part {number:07d}",
            "email": f"user{number}@example.com",
            "quantity": chance.randrange(1000),
            "price": round(chance.random() * 100, 4),
            "active": bool(number & 1),
            "created_at": (START + timedelta(seconds=number, microseconds=chance.randrange(1, 10**6))).replace(
                tzinfo=zone
            ),
            "notes": f"Batch inspected, torque within tolerance; note {chance.randrange(10**6)}: see the shift report.",
            "deleted_at": None,
        }
        for number in range(first, first + count)
    ]


def stored_time(moment: datetime | None) -> str | None:
    """How SQLAlchemy writes a time into SQLite."""
    return None if moment is None else moment.isoformat(" ", "microseconds")[:26]


def fill(path: Path, users: int, audited: int) -> None:
    """Add rows to the tables of any contender, past all of them; of the audit rows three in four are of `users`."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("BEGIN")
        for first in range(1, max(users, audited) + 1, 10_000):
            rows = make_rows(min(10_000, max(users, audited) - first + 1), zone=None, first=first, seed=first)
            numbered = list(enumerate(rows, first))
            connection.executemany(
                f"INSERT INTO users (id, {', '.join(FIELDS)}) VALUES (?{', ?' * len(FIELDS)})",
                [
                    (number, *(stored_time(row[name]) if name == "created_at" else row[name] for name in FIELDS))
                    for number, row in numbered
                    if number <= users
                ],
            )
            connection.executemany(
                "INSERT INTO auditlog (id, timestamp, component, record_id, operation, actor, after)"
                " VALUES (?, ?, ?, ?, 'create', 'bench', ?)",
                [
                    (
                        number,
                        stored_time(START + timedelta(seconds=7 * number)),
                        "users" if number % 4 else "products",
                        (number - 1) % max(users, 1) + 1,
                        json.dumps({"id": number, **row, "created_at": row["created_at"].isoformat()}),
                    )
                    for number, row in numbered
                    if number <= audited
                ],
            )
        connection.execute("COMMIT")
        # One transaction of this size leaves a log that no machine has.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def content(path: Path, *, without: str = "") -> tuple[list[Any], list[Any]]:
    """The rows and the audit trail that a contender left, in one spelling; times of the run count as equal.

    Args:
        path: Of the database.
        without: A field that may be different.
    """
    fields = [name for name in FIELDS if name != without]
    with closing(sqlite3.connect(path)) as connection:
        users = connection.execute(f"SELECT id, {', '.join(fields)} FROM users ORDER BY id").fetchall()
        trail = connection.execute(
            "SELECT component, record_id, operation, actor, before, after FROM auditlog ORDER BY id"
        ).fetchall()
    return (
        [(*row[:-1], row[-1] is not None) for row in users],
        sorted(
            ((component, int(key), operation, actor, _plain(before, without), _plain(after, without)) for
             component, key, operation, actor, before, after in trail),
            key=repr,
        ),
    )  # fmt: skip


def _plain(snapshot: str | None, without: str) -> Any:
    values = json.loads(snapshot) if snapshot else None
    if values is None:
        return None
    created = datetime.fromisoformat(values["created_at"].replace("Z", "+00:00"))
    values["created_at"] = (created if created.tzinfo else created.replace(tzinfo=timezone.utc)).isoformat()
    values["deleted_at"] = values["deleted_at"] is not None
    values.pop(without, None)
    return sorted(values.items())
