"""The audit trail over HTTP: pages of it, newest first."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

from fastapi import Query, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from sqlalchemy import ColumnElement, and_, func, or_, select
from starlette.datastructures import URL

from vstorage_core import Operation, Storage
from vstorage_core.audit import AUDIT_TABLE
from vstorage_core.records import encode_snapshot
from vstorage_rest.json_types import INTEGER_LIMIT, Text, UtcByDefault
from vstorage_rest.queries import links
from vstorage_rest.schemas import visible_fields


class AuditRecord(BaseModel):
    """One row of the audit trail."""

    id: int
    timestamp: datetime
    component: str
    record_id: int | str
    operation: str
    actor: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    batch: str | None
    reason: str | None
    actor_source: str | None
    remote_address: str | None
    request_id: str | None


# The parameters that every page of the trail has.
Actor = Annotated[Text | None, Query(description="Only what this actor did")]
OfOperation = Annotated[Operation | None, Query(description="Only this operation")]
Since = Annotated[UtcByDefault | None, Query(description="Not before this time; UTC where no zone is given")]
Until = Annotated[UtcByDefault | None, Query(description="Before this time; UTC where no zone is given")]
Offset = Annotated[int, Query(ge=0, lt=INTEGER_LIMIT, description="Skip so many rows")]
Cursor = Annotated[str | None, Query(description="Where the page before ended; taken from its Link header")]
Count = Annotated[bool, Query(description="Tell in X-Total-Count how many rows there are on all pages")]


def trail_conditions(
    *,
    component: str | None = None,
    record_id: Any = None,
    actor: str | None = None,
    operation: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
) -> list[ColumnElement[bool]]:
    """SQL conditions on the audit table for what is not None."""
    columns = AUDIT_TABLE.c
    given = {"component": component, "record_id": record_id, "actor": actor, "operation": operation}
    conditions: list[ColumnElement[bool]] = [
        columns[name] == value for name, value in given.items() if value is not None
    ]
    if since is not None:
        conditions.append(columns.timestamp >= since)
    if until is not None:
        conditions.append(columns.timestamp < until)
    return conditions


def trail_page(
    storage: Storage,
    conditions: list[ColumnElement[bool]],
    url: URL,
    *,
    limit: int,
    offset: int,
    cursor: str | None,
    count: bool,
) -> Response:
    """A page of the audit rows for which all conditions hold, newest first; `Link` leads to the next one.

    Raises:
        RequestValidationError: The cursor is none.
    """
    columns = AUDIT_TABLE.c
    statement = select(AUDIT_TABLE).where(*conditions, *([] if cursor is None else [_older_than(cursor)]))
    # One more than fits tells whether there is a next page.
    statement = statement.order_by(columns.timestamp.desc(), columns.id.desc()).offset(offset or None).limit(limit + 1)
    headers = {}
    with storage.use_session() as session:
        rows = [dict(row._mapping) for row in session.execute(statement)]
        if count:
            total = select(func.count()).select_from(AUDIT_TABLE).where(*conditions)
            headers["X-Total-Count"] = str(session.execute(total).scalar_one())
    if len(rows) > limit:
        del rows[limit:]
        headers["Link"] = links(url, {"next": {"cursor": _cursor(rows[-1]), "limit": limit, "offset": None}})
    hidden = hidden_fields(storage)
    for row in rows:
        for snapshot in (row["before"], row["after"]):
            for name in hidden.get(row["component"], ()) if snapshot else ():
                snapshot.pop(name, None)
    return Response(encode_rows(rows), headers=headers, media_type="application/json")


def encode_rows(rows: list[dict[str, Any]]) -> str:
    """Rows as a JSON array."""
    return f"[{','.join(map(encode_snapshot, rows))}]"


def hidden_fields(storage: Storage) -> Mapping[str, set[str]]:
    """By component, the fields that its model excludes from what leaves the server."""
    return {
        accessor.component: set(accessor.record.columns) - set(visible_fields(accessor.record))
        for accessor in storage.accessors
    }


def _cursor(row: Mapping[str, Any]) -> str:
    return base64.urlsafe_b64encode(f"{row['timestamp'].isoformat()} {row['id']}".encode()).decode().rstrip("=")


def _older_than(cursor: str) -> ColumnElement[bool]:
    try:
        timestamp, _, id_ = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition(" ")
        instant, last = datetime.fromisoformat(timestamp), int(id_)
        if instant.tzinfo is None or not 0 <= last < INTEGER_LIMIT:
            raise ValueError
    except ValueError:
        message = "not a place in the audit trail; take it from the Link header of the page before"
        problem = {"type": "value_error", "loc": ("query", "cursor"), "msg": message}
        raise RequestValidationError([problem]) from None
    columns = AUDIT_TABLE.c
    # The first part says nothing new, but in a form for which databases use an index.
    return and_(columns.timestamp <= instant, or_(columns.timestamp < instant, columns.id < last))
