"""From a model to the shapes of its records over HTTP: what a client sends, what it gets, as pydantic models."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, Strict, create_model
from pydantic.fields import FieldInfo
from sqlalchemy import Integer

from vstorage_core.records import SOFT_DELETE_FIELD, RecordType
from vstorage_rest.json_types import (
    INTEGER_LIMIT,
    SMALLEST_INTEGER,
    Integer64,
    json_type,
    parameter_type,
    whole,
    without_none,
)

Presence = Literal["required", "optional", "as declared"]


@functools.cache
def read_schema(record: RecordType) -> type[BaseModel]:
    """What a client gets: every field that the model does not exclude, always."""
    return _schema(record, "", dict.fromkeys(visible_fields(record), "required"))


@functools.cache
def create_schema(record: RecordType) -> type[BaseModel]:
    """What a client sends to create a record: required is what neither the model nor the database fills in."""
    return _schema(
        record,
        "Create",
        {
            name: "optional" if field.is_required() and record.fills_in(name) else "as declared"
            for name, field in _fields(record).items()
        },
    )


@functools.cache
def update_schema(record: RecordType) -> type[BaseModel]:
    """What a client sends to change a record: any of its fields."""
    return _schema(record, "Update", dict.fromkeys(_fields(record), "optional"))


@functools.cache
def batch_schema(record: RecordType) -> type[BaseModel]:
    """What a client sends to change one record of many: its key and any of its fields."""
    return _schema(record, "Change", {**dict.fromkeys(_fields(record), "optional"), record.key: "required"})


def json_key(record: RecordType) -> Any:
    """The type of the model's key in a JSON body."""
    if isinstance(record.key_column.type, Integer):
        return Annotated[Integer64, Strict(), BeforeValidator(whole)]
    return json_type(without_none(record.model.model_fields[record.key].annotation))


def visible_fields(record: RecordType) -> dict[str, FieldInfo]:
    """The fields that leave the server: those not declared with `Field(exclude=True)`."""
    return {name: field for name, field in _fields(record).items() if not field.exclude}


def key_annotation(record: RecordType) -> Any:
    """The type of the model's key in a path."""
    return parameter_type(record.model.model_fields[record.key].annotation)


def _fields(record: RecordType) -> dict[str, FieldInfo]:
    fields = record.model.model_fields
    return {name: fields[name] for name in record.columns if name in fields}


def _schema(record: RecordType, suffix: str, presence: Mapping[str, Presence]) -> type[BaseModel]:
    definitions: dict[str, Any] = {}
    for name, field in _fields(record).items():
        if name not in presence:
            continue
        if suffix and name == SOFT_DELETE_FIELD:
            # Null, so that a record can be sent back as it was read; DELETE and restore change it.
            definitions[name] = (None, Field(default_factory=_absent, description="Changed by DELETE and restore only"))
            continue
        annotation: Any = field.annotation
        if name == record.key and presence[name] == "required":
            annotation = without_none(annotation)
        rules = list(field.metadata)
        if suffix and isinstance(record.columns[name].type, Integer):
            rules += [*_missing_bounds(rules), BeforeValidator(whole)]
        parts = (json_type(annotation), *rules)
        definitions[name] = (Annotated[parts] if rules else parts[0], _described(field, presence[name]))
    return create_model(
        record.model.__name__ + suffix,
        __config__=ConfigDict(extra="forbid", allow_inf_nan=False),
        __doc__=vars(record.model).get("__doc__"),
        __module__=record.model.__module__,
        **definitions,
    )


def _missing_bounds(rules: list[Any]) -> list[Any]:
    lower = [] if any(isinstance(rule, Ge | Gt) for rule in rules) else [Ge(SMALLEST_INTEGER)]
    upper = [] if any(isinstance(rule, Le | Lt) for rule in rules) else [Lt(INTEGER_LIMIT)]
    return [*lower, *upper]


def _described(field: FieldInfo, presence: Presence) -> Any:
    """A new field with the description of the model's, under its own name: no alias, as in the audit trail."""
    described: dict[str, Any] = {
        "title": field.title,
        "description": field.description,
        "examples": field.examples,
        "json_schema_extra": field.json_schema_extra,
        "deprecated": field.deprecated,
    }
    if presence == "as declared" and field.default_factory is not None:
        described["default_factory"] = field.default_factory
    elif presence == "as declared" and not field.is_required():
        described["default"] = field.default
    elif presence == "optional":
        # Not `default=None`: the JSON schema would offer a null that is refused.
        described["default_factory"] = _absent
    return Field(**described)


def _absent() -> None:
    return None
