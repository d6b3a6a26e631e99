"""What the modules that add routes for one accessor share: its router, its types, its names."""

# No `from __future__ import annotations`: the types are made here and read by FastAPI.
import functools
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from pydantic import BaseModel, TypeAdapter, ValidationError

from vstorage_core import ConfigurationError, ModelAccessor
from vstorage_rest.access import Caller, admission_for, asks_plugins, caller_for
from vstorage_rest.json_types import UtcByDefault
from vstorage_rest.resource import Resource
from vstorage_rest.routes import guarded_route
from vstorage_rest.schemas import key_annotation
from vstorage_rest.settings import rest_settings
from vstorage_rest.turns import in_turn, take_turn

RESERVED_PREFIXES = frozenset({"db", "docs", "redoc", "openapi.json"})

IncludeDeleted = Annotated[bool, Query(description="Include soft-deleted records")]
AsOf = Annotated[
    UtcByDefault | None, Query(description="The record as it was at this time; UTC where no zone is given")
]
IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="ETag of the record as the client knows it; 412 when it has changed"),
]
IfNoneMatch = Annotated[
    str | None,
    Header(alias="If-None-Match", description="ETag of the record as the client has it; 304 when it has not changed"),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Names the request: sent again within a day it is answered again and not done again",
    ),
]


# Headers that say more about a write than whose it is.
_LOOKED_AT = frozenset({b"idempotency-key", b"if-match", b"if-none-match", b"x-reason"})
PayloadT = TypeVar("PayloadT", bound=BaseModel)


@dataclass(frozen=True)
class Collection:
    """The records of one accessor under one path.

    Attributes:
        plural: For operation ids: `list_{plural}`.
        singular: For operation ids: `create_{singular}`.
        admit_reader: Gives the `Caller` and refuses who may not read.
        admit_writer: The same for writes.
        reader: `admit_reader` as a FastAPI dependency.
        writer: `admit_writer` as a FastAPI dependency.
        read_in_turn: Decorates endpoints that read many records.
        write_in_turn: Decorates endpoints that write.
        Key: Annotation of the key in a path.
        key_adapter: Checks such a key.
    """

    router: APIRouter
    resource: Resource[Any]
    plural: str
    singular: str
    admit_reader: Callable[[Request], Caller]
    admit_writer: Callable[[Request], Caller]
    reader: Any
    writer: Any
    read_in_turn: Callable[..., Any]
    write_in_turn: Callable[..., Any]
    Key: Any
    key_adapter: TypeAdapter[Any]

    async def plain_payload(self, request: Request, schema: type[PayloadT]) -> PayloadT | None:
        """The body of a request to write that has nothing else to look at; None for all others, and for a body that is
        not as it should be."""
        scope = request.scope
        if scope["query_string"] or asks_plugins(self.resource.storage):
            return None
        if request.headers.get("content-type") != "application/json" or not _LOOKED_AT.isdisjoint(
            name for name, _ in scope["headers"]
        ):
            return None
        try:
            return schema.model_validate(json.loads(await request.body()))
        except (ValueError, RecursionError):
            return None

    async def write(self, endpoint: Callable[..., Response], **arguments: Any) -> Response:
        """What the endpoint answers to a plain request, which may share its transaction with others."""
        accessor, storage = self.resource.accessor, self.resource.storage
        # A hook may take its time, and a unit of work does not always end with its savepoint.
        joins = storage.row_plan(accessor.model) is not None and not accessor.is_hooked("insert", "update")
        return await take_turn(storage, "writing", functools.partial(endpoint, **arguments), joins=joins)

    def plain_key(self, request: Request) -> Any:
        """The key in the request's path; None where it cannot be one."""
        try:
            return self.key_adapter.validate_python(request.path_params["record_id"])
        except ValidationError:
            return None

    @property
    def max_page_size(self) -> int:
        """Most records of one list page."""
        return rest_settings(self.resource.storage).max_page_size


def collection_of(accessor: ModelAccessor[Any], max_records: int | None) -> Collection:
    """An empty router for the accessor, and what its routes need.

    Raises:
        ConfigurationError: The component would hide routes of the server's own.
    """
    component = accessor.component
    if component.split("/")[0] in RESERVED_PREFIXES:
        raise ConfigurationError(f"the component {component!r} would hide the server's own /{component}; rename it")
    plural = re.sub(r"\W", "_", component)
    model = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", accessor.model.__name__).lower()

    Key = key_annotation(accessor.record)
    return Collection(
        router=APIRouter(
            prefix=f"/{component}",
            tags=[component],
            route_class=guarded_route(lambda: rest_settings(accessor.storage), "max_body_bytes", attempts=5),
        ),
        resource=Resource(accessor, max_records),
        plural=plural,
        # The model's name only where it is the component's singular: two components may share a model.
        singular=model if plural in _plurals_of(model) else plural,
        admit_reader=admission_for(lambda: accessor.storage, "records.read", component),
        admit_writer=admission_for(lambda: accessor.storage, "records.write", component, writes=True),
        reader=Depends(caller_for(lambda: accessor.storage, "records.read", component)),
        writer=Depends(caller_for(lambda: accessor.storage, "records.write", component, writes=True)),
        read_in_turn=in_turn(lambda: accessor.storage, "reading"),
        write_in_turn=in_turn(lambda: accessor.storage, "writing"),
        Key=Key,
        key_adapter=TypeAdapter(Key),
    )


def _plurals_of(noun: str) -> set[str]:
    return {f"{noun}s", f"{noun}es", f"{noun[:-1]}ies"}
