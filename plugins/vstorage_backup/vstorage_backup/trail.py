"""The audit trail through a restore: nothing of the live trail goes, and what only the file's has comes along."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, String, Text, cast, func, select, type_coerce

from vstorage_backup.columns import FileColumn, converted
from vstorage_backup.ranges import Ranges, as_ranges, count, parts
from vstorage_backup.upload import Upload
from vstorage_core import report_progress
from vstorage_core.audit import AUDIT_TABLE

# Id, time, and what tells it from other events of that time.
Event = tuple[int, datetime, bytes]

# What makes two rows the same event, wherever they are stored under whichever id.
EVENT = ("timestamp", "component", "record_id", "operation", "actor", "before", "after")
# So many different times at least are asked for at once.
_TIMES_PER_QUERY = 500


def missing_rows(
    live: Connection, upload: Upload, columns: Sequence[FileColumn], unknown: Ranges | None = None
) -> Ranges:
    """Ids of the rows of the file's trail that the live trail does not have, as ranges from … to.

    The trail only grows, so the answer stays true after the snapshot that `live` reads.

    Args:
        live: Reads the database that is to be replaced.
        upload: The file.
        columns: Of the file's trail.
        unknown: The file's rows that are not there under the same id, letter for letter; None: not known.
    """
    if not is_comparable(upload) or unknown == []:
        return []
    by_name = {column.name: column for column in columns}
    if live.execute(select(AUDIT_TABLE.c.id).limit(1)).first() is None:
        return as_ranges(key for rows in upload.rows(AUDIT_TABLE, [by_name["id"]]) for (key,) in rows)
    return as_ranges(_missing_keys(live, upload, [by_name[name] for name in ("id", *EVENT)], unknown))


def is_comparable(upload: Upload) -> bool:
    """Whether the file's trail has what makes its rows events."""
    return {"id", *EVENT}.issubset(upload.tables.get(AUDIT_TABLE.name, ()))


def _missing_keys(
    live: Connection, upload: Upload, columns: Sequence[FileColumn], unknown: Ranges | None
) -> Iterator[int]:
    total = upload.count(AUDIT_TABLE.name) if unknown is None else count(unknown)
    done = 0
    for events in _whole_moments(_events(upload, columns, unknown)):
        known = _live_events(live, {timestamp for _, timestamp, _ in events})
        for key, timestamp, fingerprint in events:
            if (timestamp, fingerprint) not in known:
                yield key
        done += len(events)
        report_progress("comparing audit trails", done, total)


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
