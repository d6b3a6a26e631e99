"""The types of a model's fields as JSON, paths and queries carry them.

In JSON nothing is guessed: `"3"` is no number and 3 is no time.
"""

from __future__ import annotations

import base64
import binascii
import types
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    Strict,
    WithJsonSchema,
)

# 64 bits. The limit is the first number that is too large: bounds in FastAPI's documents are floats, and the number
# before it is none.
SMALLEST_INTEGER, INTEGER_LIMIT = -(2**63), 2**63


def _text(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("must be text in ISO 8601")
    return value


def _calendar_text(value: Any) -> Any:
    # pydantic would take "5" as five seconds after 1970.
    if not isinstance(value, str) or value[4:5] != "-":
        raise ValueError("must be text in ISO 8601, e.g. 2026-11-24T08:30:00Z")
    return value


def whole(value: Any) -> Any:
    """JSON has one kind of numbers: 3.0 is a whole one."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _without_zone(value: time) -> time:
    # No database keeps the zone of a time of day.
    if value.tzinfo is not None:
        raise ValueError("a time of day has no time zone")
    return value


def _decode(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("must be text in base64")
    try:
        return base64.b64decode(value.replace("-", "+").replace("_", "/"), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("must be base64") from None


class _DecimalDigits:
    """Tells in the document how many digits the field takes, in a number or in text."""

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        described = handler(schema)
        if handler.mode == "validation":
            number, text = described["anyOf"]
            digits, places = schema.get("max_digits"), schema.get("decimal_places")
            whole, fraction = r"\d+", r"(\.\d+)?" if places is None else rf"(\.\d{{1,{places}}})?" if places else ""
            if digits is not None:
                whole_digits = digits - (places or 0)
                whole = rf"\d{{1,{max(whole_digits, 1)}}}"
                for bound, limit in (("Minimum", -(10**whole_digits)), ("Maximum", 10**whole_digits)):
                    if bound.lower() not in number:
                        number.setdefault(f"exclusive{bound}", limit)
            text["pattern"] = f"^[+-]?{whole}{fraction}$"
        return described


_OF_JSON: dict[Any, Any] = {
    bool: Annotated[bool, Strict()],
    int: Annotated[int, Strict()],
    float: Annotated[float, Strict()],
    Decimal: Annotated[Decimal, _DecimalDigits()],
    datetime: Annotated[datetime, BeforeValidator(_calendar_text)],
    date: Annotated[date, BeforeValidator(_calendar_text)],
    time: Annotated[
        time,
        BeforeValidator(_text),
        AfterValidator(_without_zone),
        WithJsonSchema({"type": "string", "pattern": r"^([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d{1,6})?$"}),
    ],
    timedelta: Annotated[timedelta, BeforeValidator(_text)],
    # JSON has no bytes; in the audit trail they are base64 as well.
    bytes: Annotated[
        bytes,
        BeforeValidator(_decode),
        PlainSerializer(lambda value: base64.urlsafe_b64encode(value).decode()),
        WithJsonSchema({"type": "string", "contentEncoding": "base64"}),
    ],
}


def json_type(annotation: Any) -> Any:
    """The annotation with each type in it as JSON carries it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is None or origin is Literal:
        return _OF_JSON.get(annotation, annotation)
    if origin is Annotated:
        parts = (json_type(arguments[0]), *arguments[1:])
        return Annotated[parts]
    converted = tuple(json_type(argument) for argument in arguments)
    if origin in (Union, types.UnionType):
        return Union[converted]  # noqa: UP007 (of a tuple)
    return origin[converted]


def _aware(instant: datetime) -> datetime:
    return instant if instant.tzinfo is not None else instant.replace(tzinfo=timezone.utc)


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL characters")
    return text


Text = Annotated[str, AfterValidator(_storable)]
UtcByDefault = Annotated[datetime, BeforeValidator(_calendar_text), AfterValidator(_aware)]
Integer64 = Annotated[int, Field(ge=SMALLEST_INTEGER, lt=INTEGER_LIMIT)]

_OF_PARAMETERS: dict[Any, Any] = {
    int: Integer64,
    str: Text,
    datetime: UtcByDefault,
}


def parameter_type(annotation: Any) -> Any:
    """The annotation, without None, as paths and queries carry it: as text; UTC where a time has no zone."""
    annotation = without_none(annotation)
    return _OF_PARAMETERS.get(annotation, annotation)


def without_none(annotation: Any) -> Any:
    """`int` of `int | None`."""
    if get_origin(annotation) in (Union, types.UnionType):
        parts = tuple(part for part in get_args(annotation) if part is not type(None))
        return parts[0] if len(parts) == 1 else Union[parts]  # noqa: UP007 (of a tuple)
    return annotation
