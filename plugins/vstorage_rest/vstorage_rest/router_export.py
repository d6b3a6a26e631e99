"""The records of one accessor as a file, in each format in which a plugin writes single tables."""

# No `from __future__ import annotations`: FastAPI resolves the annotations of functions inside functions here.
from typing import Annotated, Any, BinaryIO
from urllib.parse import quote

from fastapi import HTTPException, Query, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError, create_model

from vstorage_core import Exporter, Selection, TableExporter
from vstorage_rest.access import Caller
from vstorage_rest.collection import Collection
from vstorage_rest.failures import declared
from vstorage_rest.queries import ListQuery, ListStatement, list_query
from vstorage_rest.transfers import FILE_SCHEMA, download

# A file has no pages.
_OF_PAGES = frozenset({"limit", "offset", "after", "count"})


def add_export(collection: Collection, exporter: Exporter) -> None:
    """Add `GET /{filename}`, if the exporter writes single tables; filters, order and fields as in the list."""
    single, resource = exporter.table, collection.resource
    mapper = resource.record.mapper
    # Which rows of a table are of which class of a hierarchy, only the ORM knows.
    if single is None or mapper.inherits is not None or mapper.polymorphic_on is not None:
        return
    Parameters = _parameters(collection, single)
    Filters = list_query(resource.record)

    def export(caller: Annotated[Caller, collection.reader], parameters: Annotated[Parameters, Query()]) -> Response:
        given: Any = parameters
        sent = {name: getattr(given, name) for name in given.model_fields_set}
        own = {name: sent.pop(name) for name in single.options.model_fields if name in sent}
        rest = {name if name in Filters.model_fields else name.removesuffix("__eq"): sent[name] for name in sent}
        statement = ListStatement(resource.record, Filters.model_construct(set(rest), **rest), max_page_size=1)
        selection = Selection(
            table=mapper.local_table,
            columns=[resource.record.columns[name] for name in statement.shown],
            conditions=statement.conditions,
            order_by=statement.order_by,
        )
        options = _checked(single.options, own)

        def write(stream: BinaryIO) -> None:
            single.write(resource.storage, selection, stream, options)

        name = single.filename.replace("export", quote(resource.accessor.component, safe=""), 1)
        return download(write, name, single.media_type)

    schema = {"type": "string"} if single.media_type.startswith("text/") else FILE_SCHEMA
    collection.router.add_api_route(
        f"/{single.filename}",
        export,
        operation_id=f"export_{collection.plural}_{exporter.name}",
        summary=f"Export {resource.accessor.component} as {exporter.name}",
        response_class=Response,
        responses={
            200: {"content": {single.media_type: {"schema": schema}}, "description": single.filename},
            **declared(),
        },
    )

    @collection.router.api_route(f"/{single.filename}", methods=["PUT", "PATCH", "DELETE"], include_in_schema=False)
    def refuse() -> None:
        # Or it would be taken for the key of a record, which GET could not reach.
        raise HTTPException(405, "Method Not Allowed", {"Allow": "GET, HEAD"})


def _parameters(collection: Collection, single: TableExporter) -> type[BaseModel]:
    """Those of the list, less pages, and the exporter's options; a field called like an option is `{field}__eq`."""
    options = single.options.model_fields
    definitions: dict[str, Any] = {}
    for name, field in list_query(collection.resource.record).model_fields.items():
        if name not in _OF_PAGES:
            definitions[f"{name}__eq" if name in options and name not in ListQuery.model_fields else name] = (
                field.annotation,
                field,
            )
    definitions.update({name: (field.annotation, field) for name, field in options.items()})
    model = collection.resource.record.model.__name__
    suffix = single.filename.rpartition(".")[2].capitalize()
    config = ConfigDict(extra="forbid", allow_inf_nan=False)
    return create_model(f"{model}{suffix}Query", __config__=config, **definitions)


def _checked(options: type[BaseModel], sent: dict[str, Any]) -> BaseModel:
    try:
        return options.model_validate(sent)
    except ValidationError as error:
        raise RequestValidationError(
            [{**problem, "loc": ("query", *problem["loc"])} for problem in error.errors(include_url=False)]
        ) from None
