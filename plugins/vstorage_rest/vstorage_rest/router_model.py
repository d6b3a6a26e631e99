"""The CRUD routes of one accessor."""

# No `from __future__ import annotations`: FastAPI resolves the annotations of functions inside functions here.
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, HTTPException, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams

from vstorage_core import Exporter, ModelAccessor
from vstorage_core.records import ModelT, encode
from vstorage_rest.access import Caller, asks_plugins
from vstorage_rest.collection import (
    AsOf,
    Collection,
    IdempotencyKey,
    IfMatch,
    IfNoneMatch,
    IncludeDeleted,
    collection_of,
)
from vstorage_rest.failures import declared, described
from vstorage_rest.idempotency import run_once
from vstorage_rest.queries import ListStatement, links, list_parameters
from vstorage_rest.resource import is_deleted, matches
from vstorage_rest.router_batch import add_batch
from vstorage_rest.router_export import add_export
from vstorage_rest.router_history import add_history, state_at
from vstorage_rest.routes import with_shortcut
from vstorage_rest.schemas import create_schema, read_schema, update_schema

# A type of its own, because what `application/json` answers has every field.
FIELDS_MEDIA_TYPE = "application/vnd.vstorage.fields+json"
_SOME_FIELDS = {"content": {FIELDS_MEDIA_TYPE: {"schema": {"type": "array", "items": {"type": "object"}}}}}
_WITH_ETAG = {"headers": described("ETag")}


class Deletion(BaseModel):
    """What happened to a record."""

    status: Literal["deleted"]


class Restoration(BaseModel):
    """What happened to a soft-deleted record; `restored` is false where it was live already."""

    status: Literal["ok"]
    restored: bool


def build_crud_router(
    accessor: ModelAccessor[ModelT], *, max_records: int | None = 100, exporters: Iterable[Exporter] = ()
) -> APIRouter:
    """Routes to list, get, create, put, patch, delete and restore the accessor's records.

    Args:
        accessor: Gives the model, the path `/{component}` and the database.
        max_records: How many live records clients may create; None: no limit.
        exporters: Those that write single tables serve the records as files.

    Raises:
        ConfigurationError: The component would hide routes of the server's own.
    """
    collection = collection_of(accessor, max_records)
    files = [exporter for exporter in exporters if exporter.table is not None]
    # Before what takes `batch` for a key.
    add_batch(collection)
    for exporter in files:
        add_export(collection, exporter)
    # FastAPI looks at one route after the other, so what is asked most comes first.
    _add_get(collection)
    _add_list(collection)
    _add_create(collection)
    _add_changes(collection)
    if accessor.audited:
        add_history(collection)
    return collection.router


def _unless_known(response: Response, if_none_match: str | None) -> Response:
    """RFC 9110: 304 where the client names the ETag of the record."""
    if if_none_match is not None and matches(if_none_match, response.headers["etag"], weakly=True):
        return Response(status_code=304, headers={"ETag": response.headers["etag"]})
    return response


def _add_get(collection: Collection) -> None:
    router, resource = collection.router, collection.resource
    reader, Key = collection.reader, collection.Key

    async def get_plain(request: Request) -> Response | None:
        # What machines poll with.
        key = None if request.scope["query_string"] else collection.plain_key(request)
        if key is None:
            return None

        def read() -> Response:
            collection.admit_reader(request)
            return _unless_known(resource.respond(resource.existing(key)), request.headers.get("if-none-match"))

        if resource.reads_at_once() and not asks_plugins(resource.storage):
            # The way to a thread and back costs more than the read.
            return read()
        return await run_in_threadpool(read)

    @router.get(
        "/{record_id}",
        operation_id=f"get_{collection.singular}",
        response_model=read_schema(resource.record),
        responses={200: _WITH_ETAG, 304: {"description": "Not changed", **_WITH_ETAG}, **declared(404)},
    )
    @with_shortcut(get_plain)
    def get_record(
        caller: Annotated[Caller, reader],
        record_id: Key,
        include_deleted: IncludeDeleted = False,
        as_of: AsOf = None,
        if_none_match: IfNoneMatch = None,
    ) -> Response:
        """Get one record, as it is or as its audit trail says that it was."""
        if as_of is not None:
            return state_at(collection, record_id, as_of, include_deleted=include_deleted)
        response = resource.respond(resource.existing(record_id, include_deleted=include_deleted))
        return _unless_known(response, if_none_match)


def _add_list(collection: Collection) -> None:
    router, resource, reader = collection.router, collection.resource, collection.reader
    Read = read_schema(resource.record)
    parameters = list_parameters(resource.record)

    # Machines ask the same again and again: what a query means, and its SQL, is worked out once.
    @lru_cache(maxsize=32)
    def statement_of(query_string: bytes, max_page_size: int) -> ListStatement:
        return ListStatement(resource.record, parameters.read(QueryParams(query_string)), max_page_size)

    async def list_plain(request: Request) -> Response | None:
        if asks_plugins(resource.storage):
            return None
        response: Response = await list_records(request=request, caller=collection.admit_reader(request))
        return response

    @router.get(
        "/",
        operation_id=f"list_{collection.plural}",
        response_model=list[Read],
        responses={
            200: {**_SOME_FIELDS, "headers": described("Link", "X-Total-Count")},
            **declared(),
        },
        openapi_extra={"parameters": parameters.openapi},
    )
    @with_shortcut(list_plain)
    @collection.read_in_turn
    def list_records(request: Request, caller: Annotated[Caller, reader]) -> Response:
        """List the records, ordered by key unless told otherwise; `Link` leads to the next page."""
        statement = statement_of(request.scope["query_string"], collection.max_page_size)
        found, total = resource.page(statement)
        headers = {} if total is None else {"X-Total-Count": str(total)}
        page = found[: statement.limit]
        pages = {}
        if len(found) > statement.limit:
            pages["next"] = {"limit": statement.limit, "after": statement.cursor(page[-1]), "offset": None}
        if statement.offset:
            pages["prev"] = {"limit": statement.limit, "offset": max(0, statement.offset - statement.limit)}
        if pages:
            headers["Link"] = links(request.url, pages)
        if len(statement.names) > len(statement.shown):
            page = [{name: values[name] for name in statement.shown} for values in page]
        media_type = "application/json" if statement.has_all_fields else FIELDS_MEDIA_TYPE
        return Response(encode(page), 200, headers, media_type)


def _add_create(collection: Collection) -> None:
    router, resource, writer = collection.router, collection.resource, collection.writer
    Create = create_schema(resource.record)

    def create(request: Request, caller: Caller, payload: BaseModel) -> Response:
        with caller.acting():
            key = resource.create(resource.sent(payload))
            return resource.respond_stored(key, 201, {"Location": resource.location(request.url.path, key)})

    async def create_plain(request: Request) -> Response | None:
        payload = await collection.plain_payload(request, Create)
        if payload is None:
            return None
        caller = collection.admit_writer(request)
        return await collection.write(create, request=request, caller=caller, payload=payload)

    @router.post(
        "/",
        operation_id=f"create_{collection.singular}",
        response_model=read_schema(resource.record),
        status_code=201,
        responses={201: {"headers": described("ETag", "Location")}, **declared(400, 409, 413)},
    )
    @with_shortcut(create_plain)
    @collection.write_in_turn
    def create_record(
        request: Request,
        caller: Annotated[Caller, writer],
        payload: Annotated[Create, Body()],
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """Create a record."""
        work = partial(create, request, caller, payload)
        if idempotency_key is None:
            return work()
        return run_once(resource.storage, request, caller, idempotency_key, [payload], work)


def _add_changes(collection: Collection) -> None:
    router, resource, accessor = collection.router, collection.resource, collection.resource.accessor
    writer, Key, singular = collection.writer, collection.Key, collection.singular
    Read, Update = read_schema(resource.record), update_schema(resource.record)

    def changing(endpoint: Callable[..., Response]) -> Callable[..., Any]:
        async def change_plain(request: Request) -> Response | None:
            key = collection.plain_key(request)
            payload = None if key is None else await collection.plain_payload(request, Update)
            if payload is None:
                return None
            caller = collection.admit_writer(request)
            return await collection.write(endpoint, request=request, caller=caller, record_id=key, payload=payload)

        in_turn: Callable[..., Any] = collection.write_in_turn(endpoint)
        return with_shortcut(change_plain)(in_turn)

    @router.put(
        "/{record_id}",
        operation_id=f"put_{singular}",
        response_model=Read,
        responses={
            200: _WITH_ETAG,
            201: {"model": Read, "description": "Created", "headers": described("ETag", "Location")},
            **declared(400, 404, 409, 412, 413),
        },
    )
    @changing
    def put_record(
        request: Request,
        caller: Annotated[Caller, writer],
        record_id: Key,
        payload: Annotated[Update, Body()],
        if_match: IfMatch = None,
        if_none_match: IfNoneMatch = None,
    ) -> Response:
        """Change the fields sent of an existing record, or create it with this key; `If-None-Match: *` only creates."""
        fields = resource.changes(payload)
        with caller.acting():
            # An update without conditions is a transaction of its own, and needs no session.
            if if_match is if_none_match is None and accessor.update(record_id, **fields) is not None:
                return resource.respond_stored(record_id)
            with resource.storage.transaction():
                stored = resource.find(record_id, lock=True)
                resource.check_preconditions(stored, if_match, if_none_match)
                if stored is None:
                    fields = {**fields, resource.record.key: record_id}
                    resource.require_complete(fields)
                    resource.create(fields)
                    return resource.respond_stored(record_id, 201, {"Location": request.url.path})
                return _update(collection, record_id, fields)

    @router.patch(
        "/{record_id}",
        operation_id=f"update_{singular}",
        response_model=Read,
        responses={200: _WITH_ETAG, **declared(400, 404, 409, 412, 413)},
    )
    @changing
    def update_record(
        request: Request,
        caller: Annotated[Caller, writer],
        record_id: Key,
        payload: Annotated[Update, Body()],
        if_match: IfMatch = None,
    ) -> Response:
        """Change the fields sent of an existing record."""
        fields = resource.changes(payload)
        with caller.acting():
            if if_match is None and accessor.update(record_id, **fields) is not None:
                return resource.respond_stored(record_id)
            with resource.storage.transaction():
                resource.check_preconditions(resource.existing(record_id, lock=True), if_match)
                return _update(collection, record_id, fields)

    @router.delete(
        "/{record_id}",
        operation_id=f"delete_{singular}",
        response_model=Deletion,
        responses=declared(400, 404, 409, 412),
    )
    @collection.write_in_turn
    def delete_record(caller: Annotated[Caller, writer], record_id: Key, if_match: IfMatch = None) -> dict[str, str]:
        """Delete a record, or mark it deleted where the model has `deleted_at`."""
        with caller.acting(), resource.storage.transaction():
            resource.check_preconditions(resource.existing(record_id, lock=True), if_match)
            accessor.delete(record_id)
        return {"status": "deleted"}

    @router.post(
        "/{record_id}/restore",
        operation_id=f"restore_{singular}",
        response_model=Restoration,
        responses=declared(400, 404, 409),
    )
    @collection.write_in_turn
    def restore_record(caller: Annotated[Caller, writer], record_id: Key) -> dict[str, str | bool]:
        """Make a soft-deleted record live again."""
        if not accessor.has_soft_delete:
            raise HTTPException(409, f"{accessor.component} does not support soft delete/restore")
        with caller.acting(), resource.storage.transaction():
            restored = is_deleted(resource.existing(record_id, include_deleted=True, lock=True))
            if restored:
                resource.require_room()
                accessor.restore(record_id)
        return {"status": "ok", "restored": restored}


def _update(collection: Collection, key: Any, fields: dict[str, Any]) -> Response:
    if collection.resource.accessor.update(key, **fields) is None:
        raise HTTPException(404, "Not found: it is deleted; restore it first")
    return collection.resource.respond_stored(key)
