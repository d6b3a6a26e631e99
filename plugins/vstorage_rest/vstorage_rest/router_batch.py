"""The batch routes of one accessor: many records in one transaction, all or none, each error with its place."""

# No `from __future__ import annotations`: FastAPI resolves the annotations of functions inside functions here.
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar

from fastapi import Body, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel

from vstorage_core import Storage
from vstorage_rest.access import Caller
from vstorage_rest.collection import Collection, IdempotencyKey
from vstorage_rest.failures import BatchRefused, declared, refusal
from vstorage_rest.idempotency import run_once
from vstorage_rest.schemas import batch_schema, create_schema, json_key, read_schema
from vstorage_rest.settings import rest_settings

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Deleted(BaseModel):
    """How many records were deleted."""

    status: Literal["deleted"]
    count: int


def add_batch(collection: Collection) -> None:
    """Add `POST`, `PATCH` and `DELETE /batch`."""
    router, resource, accessor = collection.router, collection.resource, collection.resource.accessor
    writer, key_name = collection.writer, collection.resource.record.key
    Read, Create, Change = read_schema(resource.record), create_schema(resource.record), batch_schema(resource.record)
    Key = json_key(resource.record)

    @router.post(
        "/batch",
        operation_id=f"create_{collection.plural}_batch",
        response_model=list[Read],
        status_code=201,
        responses=declared(400, 409, 413),
    )
    @collection.write_in_turn
    def create_records(
        request: Request,
        caller: Annotated[Caller, writer],
        payload: Annotated[list[Create], Body()],
        idempotency_key: IdempotencyKey = None,
    ) -> Response:
        """Create many records, all or none."""
        _require_size(resource.storage, payload)

        def create() -> Response:
            resource.require_room(len(payload))
            new = [resource.sent(item) for item in payload]
            instances = _all_or_none(
                resource.storage,
                new,
                together=lambda: accessor.insert_many([accessor.model(**fields) for fields in new]),
                single=lambda fields: accessor.insert(accessor.model(**fields)),
            )
            return resource.respond_many([getattr(instance, key_name) for instance in instances], 201)

        with caller.acting():
            return run_once(resource.storage, request, caller, idempotency_key, payload, create)

    @router.get("/batch", include_in_schema=False)
    @router.put("/batch", include_in_schema=False)
    def refuse() -> None:
        # Or it would be taken for the key of a record, which POST, PATCH and DELETE could not reach.
        raise HTTPException(405, "Method Not Allowed", {"Allow": "DELETE, PATCH, POST"})

    @router.patch(
        "/batch",
        operation_id=f"update_{collection.plural}_batch",
        response_model=list[Read],
        responses=declared(400, 404, 409, 413),
    )
    @collection.write_in_turn
    def update_records(caller: Annotated[Caller, writer], payload: Annotated[list[Change], Body()]) -> Response:
        """Change the fields sent of many existing records, all or none; each names its key."""
        _require_size(resource.storage, payload)

        def update(item: Any) -> None:
            if accessor.update(getattr(item, key_name), **resource.changes(item)) is None:
                raise HTTPException(404, "Not found")

        with caller.acting(), resource.storage.transaction():
            _one_by_one(resource.storage, payload, update)
            return resource.respond_many([getattr(item, key_name) for item in payload])

    @router.delete("/batch", operation_id=f"delete_{collection.plural}_batch", responses=declared(400, 404, 409, 413))
    @collection.write_in_turn
    def delete_records(caller: Annotated[Caller, writer], payload: Annotated[list[Key], Body()]) -> Deleted:
        """Delete many records by their keys, all or none."""
        _require_size(resource.storage, payload)

        def delete_together() -> list[Any]:
            if accessor.delete_many(payload) < len(payload):
                raise HTTPException(404, "Not found")
            return payload

        def delete(key: Any) -> None:
            if not accessor.delete(key):
                raise HTTPException(404, "Not found")

        with caller.acting(), resource.storage.transaction():
            _all_or_none(resource.storage, payload, together=delete_together, single=delete)
        return Deleted(status="deleted", count=len(payload))


def _require_size(storage: Storage, items: Sequence[Any]) -> None:
    largest = rest_settings(storage).max_batch_size
    if len(items) > largest:
        message = f"a batch has at most {largest:,} items"
        raise RequestValidationError([{"type": "too_long", "loc": ("body",), "msg": message}])


def _all_or_none(
    storage: Storage,
    items: Sequence[ItemT],
    *,
    together: Callable[[], list[ResultT]],
    single: Callable[[ItemT], ResultT],
) -> list[ResultT]:
    """The results of all items at once; where that is refused, one after the other to find out which are to blame."""
    try:
        with storage.transaction():
            return together()
    except Exception as error:
        if _refusal_of(error, 0) is None:
            raise
    return _one_by_one(storage, items, single)


def _one_by_one(storage: Storage, items: Sequence[ItemT], write: Callable[[ItemT], ResultT]) -> list[ResultT]:
    """The results of all items.

    Raises:
        BatchRefused: Some were refused; it names each.
    """
    results: list[ResultT] = []
    statuses: set[int] = set()
    problems: list[dict[str, Any]] = []
    for place, item in enumerate(items):
        try:
            with storage.transaction():
                results.append(write(item))
        except Exception as error:
            refused = _refusal_of(error, place)
            if refused is None:
                raise
            statuses.add(refused[0])
            problems += refused[1]
    if problems:
        raise BatchRefused(statuses.pop() if len(statuses) == 1 else 422, problems)
    return results


def _refusal_of(error: Exception, place: int) -> tuple[int, list[dict[str, Any]]] | None:
    """Status and problems where the item is to blame; None where the batch fails whatever the item."""
    refused = (
        (error.status_code, error.detail)
        if isinstance(error, HTTPException)
        else refusal(error, writes=True, loc=("body", place))
    )
    if refused is None or refused[0] == 503:
        return None
    status, detail = refused
    return status, [{"type": "refused", "loc": ["body", place], "msg": detail}] if isinstance(detail, str) else detail
