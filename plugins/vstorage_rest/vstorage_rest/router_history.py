"""The past of one accessor's records: who changed what, how a record was, and back to it."""

# No `from __future__ import annotations`: FastAPI resolves the annotations of functions inside functions here.
from typing import Annotated, Any

from fastapi import Body, HTTPException, Query, Request, Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy import select

from vstorage_core.audit import AUDIT_TABLE
from vstorage_core.records import SOFT_DELETE_FIELD, encode_snapshot
from vstorage_rest.access import Caller
from vstorage_rest.collection import Collection, IfMatch
from vstorage_rest.failures import declared, described
from vstorage_rest.json_types import INTEGER_LIMIT, whole
from vstorage_rest.schemas import read_schema, update_schema
from vstorage_rest.trail import (
    Actor,
    AuditRecord,
    Count,
    Cursor,
    Offset,
    OfOperation,
    Since,
    Until,
    trail_conditions,
    trail_page,
)


class Revert(BaseModel):
    """To which of its changes a record goes back."""

    model_config = ConfigDict(extra="forbid", strict=True)

    audit_id: Annotated[int, BeforeValidator(whole)] = Field(
        ge=0, lt=INTEGER_LIMIT, description="`id` in the record's history"
    )


def add_history(collection: Collection) -> None:
    """Add `GET /{record_id}/history` and `POST /{record_id}/revert`."""
    router, resource, singular = collection.router, collection.resource, collection.singular
    reader, writer, Key = collection.reader, collection.writer, collection.Key
    Read, Update = read_schema(resource.record), update_schema(resource.record)
    accessor, component = resource.accessor, resource.accessor.component

    @router.get(
        "/{record_id}/history",
        operation_id=f"list_{singular}_history",
        response_model=list[AuditRecord],
        responses={200: {"headers": described("Link", "X-Total-Count")}, **declared()},
    )
    def read_history(
        request: Request,
        caller: Annotated[Caller, reader],
        record_id: Key,
        actor: Actor = None,
        operation: OfOperation = None,
        since: Since = None,
        until: Until = None,
        limit: Annotated[int | None, Query(ge=1, description="Most rows of one page")] = None,
        offset: Offset = 0,
        cursor: Cursor = None,
        count: Count = False,
    ) -> Response:
        """Read a record's audit trail, newest first, also of one that is gone; `Link` leads to the next page."""
        conditions = trail_conditions(
            component=component, record_id=record_id, actor=actor, operation=operation, since=since, until=until
        )
        size = min(limit or collection.max_page_size, collection.max_page_size)
        return trail_page(
            resource.storage, conditions, request.url, limit=size, offset=offset, cursor=cursor, count=count
        )

    @router.post(
        "/{record_id}/revert",
        operation_id=f"revert_{singular}",
        response_model=Read,
        responses={200: {"headers": described("ETag")}, **declared(400, 404, 409, 412, 413)},
    )
    @collection.write_in_turn
    def revert_record(
        caller: Annotated[Caller, writer], record_id: Key, payload: Annotated[Revert, Body()], if_match: IfMatch = None
    ) -> Response:
        """Make a record what it was right after that change: a new change, checked and audited like any other."""
        with caller.acting(), resource.storage.transaction():
            stored = resource.find(record_id, lock=True)
            resource.check_preconditions(stored, if_match)
            # Columns that are gone are left out; those that came later stay.
            past = _state_after(collection, record_id, payload.audit_id)
            known = {name: value for name, value in past.items() if name in Update.model_fields}
            fields = resource.changes(Update.model_validate(known))
            if stored is None:
                resource.create({**fields, resource.record.key: record_id})
            else:
                if stored.get(SOFT_DELETE_FIELD) is not None:
                    resource.require_room()
                    accessor.restore(record_id)
                accessor.update(record_id, **fields)
            return resource.respond_stored(record_id)


def _state_after(collection: Collection, key: Any, audit_id: int) -> dict[str, Any]:
    conditions = trail_conditions(component=collection.resource.accessor.component, record_id=key)
    with collection.resource.storage.use_session() as session:
        found = session.execute(select(AUDIT_TABLE.c.after).where(AUDIT_TABLE.c.id == audit_id, *conditions)).all()
    if not found:
        raise HTTPException(404, "Not found: the record has no such change in its history")
    past: dict[str, Any] | None = found[0][0]
    if past is None or past.get(SOFT_DELETE_FIELD) is not None:
        raise HTTPException(409, "That change deleted the record; DELETE it, or revert to another one")
    return past


def state_at(collection: Collection, key: Any, instant: Any, *, include_deleted: bool) -> Response:
    """A record as it was at an instant, by its audit trail; 404 where it was not, or no trail reaches back so far."""
    columns = AUDIT_TABLE.c
    conditions = trail_conditions(component=collection.resource.accessor.component, record_id=key)
    statement = select(columns.after).where(*conditions, columns.timestamp <= instant)
    statement = statement.order_by(columns.timestamp.desc(), columns.id.desc()).limit(1)
    with collection.resource.storage.use_session() as session:
        past: dict[str, Any] | None = session.execute(statement).scalar()
    if past is None or (past.get(SOFT_DELETE_FIELD) is not None and not include_deleted):
        raise HTTPException(404, "Not found at that time")
    visible = {name: value for name, value in past.items() if name in collection.resource.visible}
    return Response(encode_snapshot(visible), media_type="application/json")
