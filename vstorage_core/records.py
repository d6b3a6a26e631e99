"""What vstorage knows about one model: its columns and key, which values it allows, how a record is written as JSON."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timezone
from decimal import Context, Decimal
from typing import Any, NamedTuple, TypeVar

import sqlalchemy
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, to_json
from sqlalchemy import JSON, Column, DateTime, Float, Integer, Numeric
from sqlalchemy.exc import InvalidRequestError, NoInspectionAvailable
from sqlalchemy.orm import ColumnProperty
from sqlmodel import SQLModel
from sqlmodel.sql.sqltypes import UTCDateTime

from vstorage_core.errors import ConfigurationError, InvalidInput, InvalidRecord

ModelT = TypeVar("ModelT", bound=SQLModel)
SOFT_DELETE_FIELD = "deleted_at"

Values = dict[str, Any]
# Python's default context rounds to 28 digits.
_EXACT = Context(prec=1000)


def encode(value: Any) -> bytes:
    """Compact JSON: bytes as base64, Decimal and UUID as text, enums by value."""
    return to_json(value, bytes_mode="base64", inf_nan_mode="strings", fallback=str)


def encode_snapshot(values: Mapping[str, Any]) -> str:
    """A record's values as compact JSON."""
    return encode(values).decode()


class UnlessNone(NamedTuple):
    """A converter that need not be asked about None, which stays None."""

    convert: Callable[[Any], Any]


Converters = Mapping[str, Callable[[Any], Any] | UnlessNone]


def converted(name: str, value: str, converters: Converters) -> str:
    """The expression `value`, given to the converter of that name if there is one; for `compiled`."""
    converter = converters.get(name)
    if converter is None:
        return value
    if isinstance(converter, UnlessNone):
        return f"(None if (it := {value}) is None else convert_{name}(it))"
    return f"convert_{name}({value})"


def compiled(source: str, converters: Converters) -> Callable[[Any], Any]:
    """The function that the text says, which may use `converted` values.

    Put together for a model's columns, as dataclasses does with `__init__`: a loop over them takes twice as long. Their
    names are names of Python.
    """
    names = {
        f"convert_{name}": converter.convert if isinstance(converter, UnlessNone) else converter
        for name, converter in converters.items()
    }
    return eval(source, names)  # type: ignore[no-any-return]  # noqa: S307


class RecordType:
    """One mapped model.

    Attributes:
        model: The SQLModel class.
        columns: Its columns by attribute name, in the order of the fields.
        keys: Attribute names of the primary key's columns.
        key: The first of them, for most models the only one.
        has_soft_delete: Whether it has a `deleted_at` field.
        canonical: By attribute name, how a value is brought into the form that it has in JSON wherever it comes from.

    Raises:
        ConfigurationError: The model is no table.
    """

    def __init__(self, model: type[SQLModel]) -> None:
        try:
            mapper = sqlalchemy.inspect(model)
        except NoInspectionAvailable:
            raise ConfigurationError(f"{model.__name__} is not a table; declare it with table=True") from None
        try:
            properties = {
                attribute.key: attribute.columns[0]
                for attribute in mapper.column_attrs
                if isinstance(attribute, ColumnProperty) and isinstance(attribute.columns[0], Column)
            }
        except InvalidRequestError as error:
            raise ConfigurationError(f"{model.__name__} cannot be mapped: {error}") from error
        self.model = model
        self.mapper = mapper
        # SQLAlchemy's own order changes with the hash seed.
        order = {name: position for position, name in enumerate(model.model_fields)}
        self.columns: dict[str, Column[Any]] = dict(
            sorted(properties.items(), key=lambda item: order.get(item[0], len(order)))
        )
        self.keys: tuple[str, ...] = tuple(mapper.get_property_by_column(column).key for column in mapper.primary_key)
        self.key, self.key_column = self.keys[0], mapper.primary_key[0]
        self.has_soft_delete = SOFT_DELETE_FIELD in self.columns
        self.canonical = {
            name: canonical
            for name, column in self.columns.items()
            if (canonical := _canonical_form(column)) is not None
        }
        rules = {name: rule for name, column in self.columns.items() if (rule := storage_rule(column)) is not None}
        self._rules = [(name, rule.check) for name, rule in rules.items()]
        tests = [f"((it := values[{name!r}]) is None or {rule.certain})" for name, rule in rules.items()]
        self._is_certainly_kept = compiled(f"lambda values: {' and '.join(tests) or True}", {})
        self._makes_key = self.fills_in(self.key)
        self._fields = frozenset(model.model_fields)
        self._has_fields_only = self._fields.issuperset(self.columns)
        items = ", ".join(f"{name!r}: values[{name!r}]" for name in self.columns)
        self._all_values = compiled(f"lambda values: {{{items}}}", {})
        known = {name: UnlessNone(canonical) for name, canonical in self.canonical.items()}
        items = ", ".join(f"{name!r}: {converted(name, f'values[{name!r}]', known)}" for name in self.columns)
        self._all_canonical = compiled(f"lambda values: {{{items}}}", known)
        field = model.model_fields.get(self.key)
        self._key_adapter: TypeAdapter[Any] = TypeAdapter(field.annotation if field else Any)  # type: ignore[arg-type]

    def require_single_key(self) -> None:
        """Refuse a model whose key has several columns; only sessions can write it.

        Raises:
            ConfigurationError: It has.
        """
        if len(self.keys) > 1:
            raise ConfigurationError(
                f"{self.model.__name__} has the composite key ({', '.join(self.keys)}); an accessor needs a key of a"
                " single column. Add an id and a unique constraint over these columns"
            )

    def key_of(self, values: Mapping[str, Any]) -> Any:
        """The key of the record with these values; a tuple where it has several columns."""
        return values[self.key] if len(self.keys) == 1 else tuple(values[name] for name in self.keys)

    def record_id(self, values: Mapping[str, Any]) -> Any:
        """The key as it stands in the audit trail; several columns are separated by commas."""
        return values[self.key] if len(self.keys) == 1 else ",".join(str(values[name]) for name in self.keys)

    def identity(self, key: Any) -> Any:
        """`key` in the type of the model's key, so that "7" finds 7.

        Raises:
            InvalidInput: It cannot be one.
        """
        if type(key) is int and isinstance(self.key_column.type, Integer):
            return key
        try:
            if key is not None:
                return self._key_adapter.validate_python(key)
        except ValidationError:
            pass
        raise InvalidInput(f"{key!r} cannot be a key of {self.model.__name__}")

    def values_of(self, instance: SQLModel) -> Values:
        """What the instance holds of its columns; nothing is loaded."""
        held = instance.__dict__
        try:
            return self._all_values(held)  # type: ignore[no-any-return]
        except KeyError:
            return {name: held[name] for name in self.columns if name in held}

    def require_values(self, component: str, key: Any, given: Values) -> None:
        """Refuse to insert anew a record that was stored once and of which not all values are left.

        Raises:
            InvalidInput: The instance lost some, e.g. because its session was rolled back.
        """
        missing = [name for name in self.columns if name not in given]
        if missing:
            raise InvalidInput(
                f"{component} {key} is not stored any more, and the instance has lost {', '.join(missing)}"
            )

    def differs(self, name: str, one: Any, other: Any) -> bool:
        """Whether two values of a field are stored differently; in JSON 1 is not true."""
        if one is not None and other is not None and isinstance(self.columns[name].type, JSON):
            try:
                return _sorted_json(one) != _sorted_json(other)
            except (TypeError, ValueError, RecursionError):
                return True  # no JSON: validation says so
        return bool(one != other)

    def is_deleted(self, values: Mapping[str, Any]) -> bool:
        """Whether the record with these values is soft-deleted."""
        return self.has_soft_delete and values[SOFT_DELETE_FIELD] is not None

    def snapshot(self, values: Mapping[str, Any]) -> str:
        """The record's values as JSON, one spelling for equal values whether they come from Python or the database."""
        try:
            return encode_snapshot(self._all_canonical(values))
        except KeyError:
            pass
        plain = {name: values[name] for name in self.columns if name in values}
        for name, canonical in self.canonical.items():
            value = plain.get(name)
            if value is not None:
                plain[name] = canonical(value)
        return encode_snapshot(plain)

    def for_json(self, rows: list[Values]) -> list[Values]:
        """The rows, made canonical, so that `encode` writes them all at once as `snapshot` does each."""
        for name, canonical in self.canonical.items():
            for values in rows:
                if values.get(name) is not None:
                    values[name] = canonical(values[name])
        return rows

    def validate(self, component: str, values: Values, changed: Collection[str] | None = None) -> Values:
        """The values as the model's types, e.g. 3 for "3".

        Args:
            component: For the error message.
            values: By attribute name; what the database fills in itself may be missing.
            changed: Fields to complain about; the others were stored before and are left alone. None: all.

        Raises:
            InvalidRecord: A value is missing or not allowed by the model's types, constraints or validators.
        """
        if self._has_fields_only:
            fields = dict(values)
        else:
            fields = {name: value for name, value in values.items() if name in self._fields}
        is_complete = len(fields) == len(self._fields)
        lacks_key = self._makes_key and fields.get(self.key) is None
        if lacks_key:
            fields.pop(self.key, None)
        # A table model validates nothing in its constructor; its validator works on any instance of the class.
        scratch: SQLModel = object.__new__(self.model)
        try:
            self.model.__pydantic_validator__.validate_python(fields, self_instance=scratch)
            valid: Values = scratch.__dict__
            if not is_complete:
                # The validator has filled in the model's defaults for what is missing.
                valid = {name: valid[name] for name in fields}
            elif lacks_key:
                valid[self.key] = None
        except ValidationError as error:
            problems = [
                problem
                for problem in error.errors(include_url=False, include_context=False, include_input=False)
                if not (problem["type"] == "missing" and self.fills_in(str(problem["loc"][0])))
                and (changed is None or not problem["loc"] or problem["loc"][0] in changed)
            ]
            if problems:
                raise InvalidRecord(component, problems) from None
            valid = fields
        if is_complete and changed is None and self._is_certainly_kept(valid):
            return valid
        try:
            for name, check in self._rules:
                value = valid.get(name)
                if value is not None and (changed is None or name in changed):
                    check(value)
        except ValueError as error:
            raise InvalidRecord(component, [{"type": "value_error", "loc": (name,), "msg": str(error)}]) from None
        return valid

    def fills_in(self, name: str) -> bool:
        """Whether the database or SQLAlchemy supplies a value that is not given."""
        column = self.columns.get(name)
        return column is not None and (
            column.server_default is not None
            or column.default is not None
            or column is column.table.autoincrement_column
        )


def _sorted_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


@functools.cache
def record_type(model: type[SQLModel]) -> RecordType:
    """What there is to know about `model`, worked out once."""
    return RecordType(model)


def _canonical_form(column: Column[Any]) -> Callable[[Any], Any] | None:
    """How a value of the column is brought into the one form that it also has when it comes from the database."""
    kind = column.type
    if isinstance(kind, Float):
        return lambda value: value + 0  # no negative zero
    if isinstance(kind, DateTime | UTCDateTime):
        return lambda value: value if value.tzinfo in (timezone.utc, None) else value.astimezone(timezone.utc)
    if isinstance(kind, Numeric) and not isinstance(kind, Float):
        if kind.scale is not None:
            exponent = Decimal(1).scaleb(-kind.scale)
            # Adding zero leaves no negative zero.
            return lambda value: _EXACT.add(_EXACT.quantize(Decimal(value), exponent), 0)
        return lambda value: format(_EXACT.add(_EXACT.normalize(Decimal(value)), 0), "f")
    return None


class StorageRule(NamedTuple):
    """What every database must be able to keep and JSON to carry, beyond a model's own types.

    Attributes:
        check: Raises ValueError for a value that is not.
        certain: The same for most values in a twentieth of the time: an expression that is true for `it` only where the
            check passes.
    """

    check: Callable[[Any], None]
    certain: str


def storage_rule(column: Column[Any]) -> StorageRule | None:
    """The rule for the column's values; None where there is none."""
    kind = column.type
    if isinstance(kind, UTCDateTime):
        return StorageRule(_require_time_zone, "getattr(it, 'tzinfo', True) is not None")
    if isinstance(kind, Float):
        return StorageRule(_require_finite, "(not isinstance(it, float) or it - it == 0)")
    if isinstance(kind, Integer):
        return StorageRule(_require_64_bits, "(not isinstance(it, int) or -(2**63) <= it < 2**63)")
    if isinstance(kind, JSON):
        return StorageRule(_require_json, "False")
    if isinstance(kind, sqlalchemy.Enum | sqlalchemy.Boolean):
        return None
    return StorageRule(_require_text, "(not isinstance(it, str) or (it.isascii() and '\\0' not in it))")


def _require_time_zone(value: Any) -> None:
    if isinstance(value, datetime) and value.tzinfo is None:
        raise ValueError("the time needs a time zone, e.g. 2026-11-24T08:30:00Z or datetime.now(timezone.utc)")


def _require_finite(value: Any) -> None:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        raise ValueError("the number must be finite")


def _require_64_bits(value: Any) -> None:
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError("the whole number must fit in 64 bits")


def _require_text(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise ValueError("the text must not contain NUL characters")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise ValueError("the text contains characters that are not valid Unicode") from None


def _require_json(value: Any) -> None:
    try:
        text = json.dumps(value, allow_nan=False)
        to_json(value)
    except (TypeError, ValueError, RecursionError, PydanticSerializationError):
        raise ValueError("the value cannot be written as JSON") from None
    if "\\u0000" in text:
        raise ValueError("the value must not contain NUL characters")
