"""What a client may ask of a list, as query parameters with types: filters, order, pages, fields."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Generic, NamedTuple, TypeVar, get_origin

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from sqlalchemy import ColumnElement, Select, and_, false, func, or_, select
from starlette.datastructures import QueryParams

from vstorage_core.filters import conditions_of, operators_of
from vstorage_core.records import SOFT_DELETE_FIELD, RecordType, Values, encode_snapshot
from vstorage_core.rows import RowPlan, raw_columns
from vstorage_rest.json_types import INTEGER_LIMIT, parameter_type, without_none
from vstorage_rest.schemas import visible_fields


class ListQuery(BaseModel):
    """The parameters that every list has; the model of a list adds its filters under their own names."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    include_deleted: Annotated[bool, Field(description="Include soft-deleted records")] = False
    limit: Annotated[int | None, Field(ge=1, description="Most records of one page")] = None
    offset: Annotated[int, Field(ge=0, lt=INTEGER_LIMIT, description="Skip so many records")] = 0
    after: Annotated[str | None, Field(description="Where the page before ended; taken from its Link header")] = None
    order_by: str | None = None
    fields: str | None = None
    count: Annotated[bool, Field(description="Tell in X-Total-Count how many there are on all pages")] = False


# What an operator asks of the field that stands before it, for the document; `filters.py` has what it does.
_MEANINGS = {
    "eq": "Is this",
    "ne": "Is not this, or is empty",
    "in": "Is one of these, separated by commas",
    "not_in": "Is none of these, separated by commas, or is empty",
    "gt": "Is more than this",
    "gte": "Is at least this",
    "lt": "Is less than this",
    "lte": "Is at most this",
    "contains": "Contains this text",
    "startswith": "Starts with this text",
    "endswith": "Ends with this text",
    "like": "Looks like this: % is any text, _ any character",
    "ilike": "Looks like this in upper or lower case: % is any text, _ any character",
    "is_null": "Is empty; false: is not",
}


def _split(values: Any) -> Any:
    return [part for value in values for part in str(value).split(",")] if isinstance(values, list) else values


ModelT = TypeVar("ModelT")
QueryT = TypeVar("QueryT", bound=BaseModel)


def checked(adapter: TypeAdapter[ModelT], value: Any, *place: str) -> ModelT:
    """The value as the adapter's type.

    Raises:
        RequestValidationError: It cannot be one, said as FastAPI says it of parameters that it checks itself.
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        problems = [{**problem, "loc": (*place, *problem["loc"])} for problem in error.errors(include_url=False)]
        raise RequestValidationError(problems) from None


class QueryParameters(Generic[QueryT]):
    """Query parameters that are checked, and documented, by us.

    FastAPI makes an adapter for each of them at the start and looks for each in every request, and a list has a
    hundred; here those that were sent count.

    Attributes:
        model: What they are checked by.
    """

    def __init__(self, model: type[QueryT]) -> None:
        self.model = model
        self._adapter = TypeAdapter(model)
        self._several = {
            name for name, field in model.model_fields.items() if get_origin(without_none(field.annotation)) is list
        }

    def read(self, sent: QueryParams) -> QueryT:
        """The parameters of a request.

        Raises:
            RequestValidationError: One is unknown or not allowed.
        """
        given = {name: sent.getlist(name) if name in self._several else value for name, value in sent.items()}
        return checked(self._adapter, given, "query")

    @functools.cached_property
    def openapi(self) -> list[dict[str, Any]]:
        """The `parameters` of an operation."""
        schema = self.model.model_json_schema()
        parameters = []
        for name, described in schema["properties"].items():
            described = _inlined(described, schema.get("$defs", {}))
            # pydantic's title repeats the name.
            described.pop("title", None)
            parameters.append(
                {
                    "name": name,
                    "in": "query",
                    "required": name in schema.get("required", ()),
                    "description": described.pop("description", ""),
                    "schema": described,
                }
            )
        return parameters


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """The schema without references: the document may have another of the same name."""
    if isinstance(schema, list):
        return [_inlined(part, definitions) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    return {name: _inlined(part, definitions) for name, part in schema.items()}


@functools.cache
def list_parameters(record: RecordType) -> QueryParameters[ListQuery]:
    """Those of the list of these records: `age=3`, `age__gte=3`, `name__in=a,b`, …"""
    definitions: dict[str, Any] = {}
    for name, field in visible_fields(record).items():
        kind: Any = parameter_type(field.annotation)
        several = Annotated[list[kind] | None, BeforeValidator(_split)]
        for operator in _operators(record, name):
            parameter = name if operator == "eq" and name not in ListQuery.model_fields else f"{name}__{operator}"
            expected: Any = {"in": several, "not_in": several, "is_null": bool}.get(operator, kind)
            definitions[parameter] = (
                expected if expected is several else expected | None,
                Field(None, description=_MEANINGS[operator]),
            )
    orderable = "|".join(name for name in visible_fields(record) if "eq" in _operators(record, name))
    definitions["order_by"] = _names(f"-?({orderable})", "Fields separated by commas, - for descending")
    definitions["fields"] = _names(f"({'|'.join(visible_fields(record))})", "Only these fields, separated by commas")
    return QueryParameters(create_model(f"{record.model.__name__}Query", __base__=ListQuery, **definitions))


def _names(name: str, description: str) -> Any:
    # In the document only: the answer to an unknown field names it and the known ones.
    return (str | None, Field(None, description=description, json_schema_extra={"pattern": f"^{name}(,{name})*$"}))


class _Order(NamedTuple):
    """One part of an ordering."""

    name: str
    column: Any
    descending: bool
    nullable: bool


class ListStatement:
    """A checked query as SQL.

    Args:
        record: Of the model.
        query: As the client sent it.
        max_page_size: Most records of one page.

    Attributes:
        shown: The fields that the client gets.
        names: The fields that are read: those, and what `cursor` needs.
        limit: Most records of the page.
        total: Counts the records on all pages; None where nobody asked.
        conditions: Hold for the records on all pages.

    Raises:
        RequestValidationError: A field is unknown, or the cursor is not one of this ordering.
    """

    def __init__(self, record: RecordType, query: ListQuery, max_page_size: int) -> None:
        self._record = record
        self._visible = visible_fields(record)
        self._order = self._ordering(query.order_by)
        self.has_all_fields = query.fields is None
        chosen = self._visible if query.fields is None else self._chosen(query.fields)
        self.shown = [name for name in record.columns if name in chosen]
        self.names = list(dict.fromkeys([*self.shown, *(part.name for part in self._order)]))
        self.limit = min(query.limit or max_page_size, max_page_size)
        self.offset = query.offset
        filters = {
            name: getattr(query, name)
            for name in query.model_fields_set
            if name not in ListQuery.model_fields and getattr(query, name) is not None
        }
        self.conditions = conditions_of(record, filters)
        if record.has_soft_delete and not query.include_deleted:
            self.conditions.append(getattr(record.model, SOFT_DELETE_FIELD).is_(None))
        every = select(func.count()).select_from(record.model).where(*self.conditions)
        self.total = every if query.count else None
        self._prepared: tuple[RowPlan, tuple[str, tuple[Any, ...]]] | None = None
        self._after = [] if query.after is None else [self._later_than(query.after)]

    @functools.cached_property
    def select(self) -> Select[Any]:
        """The page and one record more, which tells that there is a next page."""
        # The ORM's attributes, so that it adds what models with inheritance need.
        return self._select(getattr(self._record.model, name) for name in self.names)

    @functools.cached_property
    def raw_select(self) -> Select[Any]:
        """The same, for rows that come as the driver gives them."""
        return self._select(raw_columns(self._record, self.names))

    def prepared(self, plan: RowPlan) -> tuple[str, tuple[Any, ...]]:
        """`raw_select` as the driver takes it."""
        known = self._prepared
        if known is None or known[0] is not plan:
            known = self._prepared = (plan, plan.prepared(self.raw_select))
        return known[1]

    def _select(self, columns: Iterable[Any]) -> Select[Any]:
        statement = select(*columns).where(*self.conditions, *self._after).order_by(*self.order_by)
        return statement.limit(self.limit + 1).offset(self.offset or None)

    @property
    def order_by(self) -> list[ColumnElement[Any]]:
        """Expressions to order by. NULL stands before every value, on every database."""
        ordering: list[ColumnElement[Any]] = []
        for part in self._order:
            directed = (part.column.is_not(None), part.column) if part.nullable else (part.column,)
            ordering.extend(column.desc() if part.descending else column.asc() for column in directed)
        return ordering

    def cursor(self, values: Values) -> str:
        """Where the next page starts, given the last record of this one."""
        position = encode_snapshot({"order": self._order_text, "at": [values[part.name] for part in self._order]})
        return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")

    @property
    def _order_text(self) -> str:
        return ",".join(("-" if part.descending else "") + part.name for part in self._order)

    def _ordering(self, order_by: str | None) -> list[_Order]:
        names = [] if order_by is None else [name.strip() for name in order_by.split(",")]
        for name in names:
            self._require_visible("order_by", name.removeprefix("-"))
            if "eq" not in _operators(self._record, name.removeprefix("-")):
                raise _refused("order_by", "there is no order of the values of this field")
        if all(name.removeprefix("-") != self._record.key for name in names):
            names.append(self._record.key)
        return [self._part(name) for name in names]

    def _part(self, name: str) -> _Order:
        field = name.removeprefix("-")
        column = self._record.columns[field]
        nullable = bool(column.nullable) and not column.primary_key
        return _Order(field, getattr(self._record.model, field), name.startswith("-"), nullable)

    def _chosen(self, names: str) -> list[str]:
        chosen = [name.strip() for name in names.split(",")]
        for name in chosen:
            self._require_visible("fields", name)
        return chosen

    def _require_visible(self, parameter: str, name: str) -> None:
        if name not in self._visible:
            raise _refused(parameter, f"there is no such field; the fields are {', '.join(self._visible)}")

    def _later_than(self, cursor: str) -> ColumnElement[bool]:
        """Row by row: later in the first field, or the same there and later in the second, …"""
        at = self._position(cursor)
        alternatives = []
        same: list[ColumnElement[bool]] = []
        for part, value in zip(self._order, at, strict=True):
            alternatives.append(and_(*same, _beyond(part, value)))
            same.append(part.column.is_(None) if value is None else part.column == value)
        later = or_(*alternatives)
        first, value = self._order[0], at[0]
        if first.nullable:
            return later
        # Says nothing new, but in a form for which databases use an index.
        return and_(first.column <= value if first.descending else first.column >= value, later)

    def _position(self, cursor: str) -> list[Any]:
        try:
            position = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
            if position["order"] != self._order_text or len(position["at"]) != len(self._order):
                raise ValueError
            return [
                None if value is None else _adapter(self._record, part.name).validate_python(value)
                for part, value in zip(self._order, position["at"], strict=True)
            ]
        except (ValueError, TypeError, KeyError, RecursionError, ValidationError):
            raise _refused(
                "after", "not a place in this list; take it from the Link header of the page before"
            ) from None


def _operators(record: RecordType, name: str) -> Mapping[str, Any]:
    """The operators that a client may use on the field; bytes have no spelling in a query."""
    known = operators_of(record.columns[name])
    if without_none(record.model.model_fields[name].annotation) is bytes:
        return {"is_null": known["is_null"]}
    return known


def _beyond(part: _Order, value: Any) -> ColumnElement[bool]:
    if value is None:
        return false() if part.descending else part.column.is_not(None)
    if part.descending:
        smaller: ColumnElement[bool] = part.column < value
        return or_(smaller, part.column.is_(None)) if part.nullable else smaller
    larger: ColumnElement[bool] = part.column > value
    return larger


@functools.cache
def _adapter(record: RecordType, name: str) -> TypeAdapter[Any]:
    annotation: Any = parameter_type(record.model.model_fields[name].annotation)
    return TypeAdapter(annotation)


def _refused(parameter: str, message: str) -> RequestValidationError:
    return RequestValidationError([{"type": "value_error", "loc": ("query", parameter), "msg": message}])


def links(url: Any, pages: Mapping[str, Mapping[str, Any]]) -> str:
    """A Link header (RFC 8288); pages by relation, each with the query parameters that differ."""
    return ", ".join(f'<{_with(url, parameters)}>; rel="{relation}"' for relation, parameters in pages.items())


def _with(url: Any, parameters: Mapping[str, Any]) -> Any:
    dropped: Sequence[str] = [name for name, value in parameters.items() if value is None]
    kept = {name: value for name, value in parameters.items() if value is not None}
    return url.remove_query_params(dropped).include_query_params(**kept)
