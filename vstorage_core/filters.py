"""The filter language: `age__gte=18`, `name__contains="ab"`; the same in Python, over HTTP and on the command line."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timezone
from typing import Any

import sqlalchemy
from pydantic import TypeAdapter, ValidationError
from sqlalchemy import JSON, Boolean, Column, ColumnElement, LargeBinary, String, TypeDecorator, Uuid, or_

from vstorage_core.errors import InvalidInput
from vstorage_core.records import RecordType, storage_rule

OrderBy = str | ColumnElement[Any] | Sequence[str | ColumnElement[Any]] | None
Condition = Callable[[Any, Any], ColumnElement[bool]]

# `ne` and `not_in` hold for NULL as well: each is true of every record for which its opposite is not.
_EQUALITY: dict[str, Condition] = {
    "eq": lambda column, value: column.is_(None) if value is None else column == value,
    "ne": lambda column, value: column.is_not(None) if value is None else or_(column != value, column.is_(None)),
    "in": lambda column, values: column.in_(values),
    "not_in": lambda column, values: or_(column.not_in(values), column.is_(None)),
}
_ORDER: dict[str, Condition] = {
    "gt": lambda column, value: column > value,
    "gte": lambda column, value: column >= value,
    "lt": lambda column, value: column < value,
    "lte": lambda column, value: column <= value,
}
# In the first three, % and _ stand for themselves; in the other two they are wildcards.
_TEXT: dict[str, Condition] = {
    "contains": lambda column, value: column.contains(value, autoescape=True),
    "startswith": lambda column, value: column.startswith(value, autoescape=True),
    "endswith": lambda column, value: column.endswith(value, autoescape=True),
    "like": lambda column, value: column.like(value),
    "ilike": lambda column, value: column.ilike(value),
}
_NULL: dict[str, Condition] = {"is_null": lambda column, value: column.is_(None) if value else column.is_not(None)}


def operators_of(column: Column[Any]) -> Mapping[str, Condition]:
    """The operators that make sense for the column's type, by name."""
    kind = column.type.impl_instance if isinstance(column.type, TypeDecorator) else column.type
    if isinstance(kind, JSON):
        return _NULL
    if isinstance(kind, sqlalchemy.Enum | Boolean | LargeBinary | Uuid):
        return {**_EQUALITY, **_NULL}
    if isinstance(kind, String):
        return {**_EQUALITY, **_ORDER, **_TEXT, **_NULL}
    return {**_EQUALITY, **_ORDER, **_NULL}


def conditions_of(record: RecordType, filters: Mapping[str, Any]) -> list[ColumnElement[bool]]:
    """SQL conditions for filters such as `{"age__gte": 18, "name": "Ana"}`; a field alone means `eq`.

    Raises:
        InvalidInput: A field or operator is unknown, or a value is not of the field's type.
    """
    return [_condition(record, name, value) for name, value in filters.items()]


def ordering_of(record: RecordType, component: str, order_by: OrderBy) -> list[Any]:
    """What the rows are ordered by, e.g. `"-age,name"` or expressions; ties are broken by key.

    Raises:
        InvalidInput: A field is unknown.
    """
    parts = [order_by] if isinstance(order_by, str | ColumnElement) else order_by or ()
    ordering: list[Any] = []
    for part in parts:
        if not isinstance(part, str):
            ordering.append(part)
            continue
        for name in filter(None, (name.strip() for name in part.split(","))):
            field = name.removeprefix("-")
            if field not in record.columns:
                known = ", ".join(record.columns)
                raise InvalidInput(f"{component}: cannot order by {field!r}; the fields are {known}")
            column = getattr(record.model, field)
            ordering.append(column.desc() if name.startswith("-") else column)
    return [*ordering, getattr(record.model, record.key)]


def condition_of_text(
    columns: Mapping[str, Column[Any]], types: Mapping[str, Any], name: str, text: str
) -> ColumnElement[bool]:
    """The SQL condition for a filter whose value is text, as on a command line, e.g. `age__gte` and `18`.

    The values of `in` and `not_in` are separated by commas; a time without a zone is in UTC.

    Args:
        columns: By field.
        types: By field, the Python type of its values; None: whatever the text.
        name: Of the filter.
        text: Its value.

    Raises:
        InvalidInput: As `conditions_of`.
    """
    field, operator, condition = _parts(columns, name)
    column = columns[field]
    if operator == "is_null":
        try:
            return condition(column, {"true": True, "false": False}[text.lower()])
        except KeyError:
            raise InvalidInput(f"{name} takes true or false") from None
    if isinstance(column.type, LargeBinary):
        raise InvalidInput(f"bytes such as {field} can only be asked whether they are there, by {field}__is_null")
    if operator in ("in", "not_in"):
        return condition(column, [_of_text(column, types.get(field), field, part) for part in text.split(",")])
    return condition(column, _of_text(column, types.get(field), field, text))


def _of_text(column: Column[Any], annotation: Any, field: str, text: str) -> Any:
    try:
        value = text if annotation is None else TypeAdapter(annotation).validate_python(text)
    except ValidationError:
        raise InvalidInput(f"{text!r} cannot be compared with {field}") from None
    # pydantic takes "5" for five seconds after 1970.
    if isinstance(value, date) and text[4:5] != "-":
        raise InvalidInput(f"{text!r} cannot be compared with {field}; write it as in 2026-01-31T08:30:00Z")
    if isinstance(value, datetime):
        value = value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)
    rule = storage_rule(column)
    try:
        if rule is not None:
            rule.check(value)
    except ValueError as error:
        raise InvalidInput(f"{field} cannot be compared with this value: {error}") from None
    return value


def _parts(columns: Mapping[str, Column[Any]], name: str) -> tuple[str, str, Condition]:
    """Field and operator of a filter's name, and what the operator does."""
    field, _, operator = (name, "", "eq") if name in columns else name.rpartition("__")
    if field not in columns:
        raise InvalidInput(f"cannot filter by {name!r}; the fields are {', '.join(columns)}")
    known = operators_of(columns[field])
    if operator not in known:
        raise InvalidInput(f"cannot filter by {name!r}; the operators of {field} are {', '.join(known)}")
    return field, operator, known[operator]


def _condition(record: RecordType, name: str, value: Any) -> ColumnElement[bool]:
    field, operator, condition = _parts(record.columns, name)
    if operator in ("in", "not_in"):
        if isinstance(value, str | bytes) or not hasattr(value, "__iter__"):
            raise InvalidInput(f"{name} takes a list of values")
        value = [_typed(record, field, item) for item in value]
    elif operator == "is_null":
        if not isinstance(value, bool):
            raise InvalidInput(f"{name} takes True or False")
    else:
        value = _typed(record, field, value)
    return condition(getattr(record.model, field), value)


def _typed(record: RecordType, field: str, value: Any) -> Any:
    """The value in the field's type: a database would compare "18" with 18 as text, or not at all."""
    if value is None or field not in record.model.model_fields:
        return value
    try:
        typed = _adapter(record, field).validate_python(value)
    except ValidationError:
        raise InvalidInput(f"{value!r} cannot be compared with {field}") from None
    if isinstance(typed, datetime) and typed.tzinfo is None:
        raise InvalidInput(f"{field} is compared with a time that has a time zone, e.g. datetime.now(timezone.utc)")
    return typed


@functools.cache
def _adapter(record: RecordType, field: str) -> TypeAdapter[Any]:
    annotation: Any = record.model.model_fields[field].annotation
    return TypeAdapter(annotation)
