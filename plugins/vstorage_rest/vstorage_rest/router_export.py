"""The records of one accessor as a file, in each format in which a plugin writes single tables."""

# No `from __future__ import annotations`: FastAPI resolves the annotations of functions inside functions here.
from typing import Annotated, BinaryIO
from urllib.parse import quote

from fastapi import HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import QueryParams

from vstorage_core import Exporter, Selection
from vstorage_rest.access import Caller
from vstorage_rest.collection import Collection
from vstorage_rest.failures import declared
from vstorage_rest.queries import ListQuery, ListStatement, QueryParameters, list_parameters
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
    of_rows, of_format = list_parameters(resource.record), QueryParameters(single.options)
    options = set(single.options.model_fields)
    # A field that is called like an option is filtered by `{field}__eq`.
    fields = {f"{name}__eq": name for name in options & set(of_rows.model.model_fields) - set(ListQuery.model_fields)}

    def export(request: Request, caller: Annotated[Caller, collection.reader]) -> Response:
        for_rows, for_format = [], []
        for name, value in request.query_params.multi_items():
            if name in options:
                for_format.append((name, value))
            elif name in _OF_PAGES:
                raise _unknown(name, value)
            else:
                for_rows.append((fields.get(name, name), value))
        chosen = of_format.read(QueryParams(for_format))
        statement = ListStatement(resource.record, of_rows.read(QueryParams(for_rows)), max_page_size=1)
        selection = Selection(
            table=mapper.local_table,
            columns=[resource.record.columns[name] for name in statement.shown],
            conditions=statement.conditions,
            order_by=statement.order_by,
        )

        def write(stream: BinaryIO) -> None:
            single.write(resource.storage, selection, stream, chosen)

        name = single.filename.replace("export", quote(resource.accessor.component, safe=""), 1)
        return download(write, name, single.media_type)

    schema = {"type": "string"} if single.media_type.startswith("text/") else FILE_SCHEMA
    names = {name: parameter for parameter, name in fields.items()}
    parameters = [
        {**parameter, "name": names.get(parameter["name"], parameter["name"])}
        for parameter in of_rows.openapi
        if parameter["name"] not in (_OF_PAGES | options) - set(names)
    ]
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
        openapi_extra={"parameters": [*parameters, *of_format.openapi]},
    )

    @collection.router.api_route(f"/{single.filename}", methods=["PUT", "PATCH", "DELETE"], include_in_schema=False)
    def refuse() -> None:
        # Or it would be taken for the key of a record, which GET could not reach.
        raise HTTPException(405, "Method Not Allowed", {"Allow": "GET, HEAD"})


def _unknown(name: str, value: str) -> RequestValidationError:
    message = "Extra inputs are not permitted"
    return RequestValidationError([{"type": "extra_forbidden", "loc": ("query", name), "msg": message, "input": value}])
