"""The audit trail through a restore: nothing of the live trail goes, and what only the file's has comes along."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, String, Text, cast, func, select, type_coerce

from vstorage_backup.columns import FileColumn, converted
from vstorage_backup.export import quoted
from vstorage_backup.upload import Upload
from vstorage_core import report_progress
from vstorage_core.audit import AUDIT_TABLE

Ranges = list[tuple[int, int]]
# Id, time, and what tells it from other events of that time.
Event = tuple[int, datetime, bytes]

# What makes two rows the same event, wherever they are stored under whichever id.
_EVENT = ("timestamp", "component", "record_id", "operation", "actor", "before", "after")
# So many different times at least are asked for at once.
_TIMES_PER_QUERY = 500


def unknown_rows(database: Path | None, upload: Upload) -> Ranges | None:
    """Ids of the rows of the file's trail that the live trail does not have under the same id, letter for letter.

    Nearly all of a machine's own backup is there, and SQLite finds it many times faster than `missing_rows`, which
    knows an event under whichever id.

    Args:
        database: The live SQLite file, or None.
        upload: The file.

    Returns:
        None where all rows must be looked at.
    """
    if database is None or not _is_comparable(upload):
        return None
    same = " AND ".join(f"ours.{quoted(name)} IS theirs.{quoted(name)}" for name in ("id", *_EVENT))
    table = quoted(AUDIT_TABLE.name)
    try:
        with closing(sqlite3.connect(upload.uri, uri=True, isolation_level=None)) as connection:
            for pragma in ("trusted_schema = OFF", "query_only = ON"):
                connection.execute(f"PRAGMA {pragma}")
            # Not read-only: a reader of a write-ahead log must be able to make its index.
            connection.execute("ATTACH DATABASE ? AS live", (f"{database.as_uri()}?mode=rw",))
            rows = connection.execute(
                f"SELECT id FROM main.{table} AS theirs NOT INDEXED"  # noqa: S608
                f" WHERE NOT EXISTS (SELECT 1 FROM live.{table} AS ours WHERE {same}) ORDER BY id"
            )
            return _as_ranges(key for (key,) in rows)
    # Also where an id is no number.
    except (sqlite3.Error, TypeError):
        return None


def missing_rows(
    live: Connection, upload: Upload, columns: Sequence[FileColumn], unknown: Ranges | None = None
) -> Ranges:
    """Ids of the rows of the file's trail that the live trail does not have, as ranges from … to.

    The trail only grows, so the answer stays true after the snapshot that `live` reads.

    Args:
        live: Reads the database that is to be replaced.
        upload: The file.
        columns: Of the file's trail.
        unknown: What `unknown_rows` has found.
    """
    if not _is_comparable(upload) or unknown == []:
        return []
    by_name = {column.name: column for column in columns}
    if live.execute(select(AUDIT_TABLE.c.id).limit(1)).first() is None:
        return _as_ranges(key for rows in upload.rows(AUDIT_TABLE, [by_name["id"]]) for (key,) in rows)
    return _as_ranges(_missing_keys(live, upload, [by_name[name] for name in ("id", *_EVENT)], unknown))


def parts(ranges: Ranges | None) -> Iterator[tuple[Any, ...]]:
    """What to hand to `Upload.rows` after the columns: for each range a condition and its values."""
    return iter([()]) if ranges is None else (("WHERE id BETWEEN ? AND ?", *part) for part in ranges)


def _is_comparable(upload: Upload) -> bool:
    return {"id", *_EVENT}.issubset(upload.tables.get(AUDIT_TABLE.name, ()))


def _missing_keys(
    live: Connection, upload: Upload, columns: Sequence[FileColumn], unknown: Ranges | None
) -> Iterator[int]:
    total = upload.count(AUDIT_TABLE.name) if unknown is None else sum(last - first + 1 for first, last in unknown)
    done = 0
    for events in _whole_moments(_events(upload, columns, unknown)):
        known = _live_events(live, {timestamp for _, timestamp, _ in events})
        for key, timestamp, fingerprint in events:
            if (timestamp, fingerprint) not in known:
                yield key
        done += len(events)
        report_progress("comparing audit trails", done, total)


def _as_ranges(keys: Iterable[int]) -> Ranges:
    ranges: Ranges = []
    for key in keys:
        if ranges and ranges[-1][1] == key - 1:
            ranges[-1] = (ranges[-1][0], key)
        else:
            ranges.append((key, key))
    return ranges


def without_null(value: Any) -> Any:
    """A snapshot, or None where the original wrote JSON's null and meant that there is none."""
    return None if value == "null" else value


def _events(upload: Upload, columns: Sequence[FileColumn], unknown: Ranges | None) -> Iterator[Event]:
    special: dict[str, Callable[[Any], Any]] = {"record_id": str, "before": without_null, "after": without_null}
    loads = [special.get(column.name, column.load) for column in columns]
    for part in parts(unknown):
        for rows in upload.rows(AUDIT_TABLE, columns, *part):
            for key, timestamp, *event in converted(rows, loads):
                yield key, timestamp, _fingerprint(event)


def _whole_moments(events: Iterator[Event]) -> Iterator[list[Event]]:
    """The events in lists, in which all neighbours of one time are together."""
    chunk: list[Event] = []
    times: set[datetime] = set()
    for event in events:
        if event[1] not in times:
            if len(times) >= _TIMES_PER_QUERY:
                yield chunk
                chunk, times = [], set()
            times.add(event[1])
        chunk.append(event)
    if chunk:
        yield chunk


def _live_events(live: Connection, times: set[datetime]) -> set[tuple[datetime, bytes]]:
    c = AUDIT_TABLE.c
    statement = select(
        c.timestamp,
        c.component,
        type_coerce(c.record_id, String),
        c.operation,
        c.actor,
        func.nullif(cast(c.before, Text), "null"),
        func.nullif(cast(c.after, Text), "null"),
    ).where(c.timestamp.in_(times))
    rows = live.execute(statement.execution_options(yield_per=1000))
    return {
        (timestamp, _fingerprint([component, str(record_id), *rest])) for timestamp, component, record_id, *rest in rows
    }


def _fingerprint(event: list[Any]) -> bytes:
    # Not the event itself: one insert of many records may have left a great many of one moment.
    return hashlib.blake2b(repr(event).encode(), digest_size=16).digest()
