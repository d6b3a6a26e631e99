"""How a column's values go into files and come back, per column type: as exact text, or as values of Python.

A codec belongs to one column. It converts whole columns of a chunk of rows at once, so that the loop over the rows
runs in C, and reads values as the driver gives them wherever their text follows from that: a time that SQLite keeps as
text is never parsed only to be formatted again.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Context, Decimal, InvalidOperation
from typing import Any, ClassVar
from uuid import UUID

import sqlalchemy
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json
from sqlalchemy import Column, ColumnElement, Dialect, Text, TypeDecorator, cast, type_coerce
from sqlalchemy.types import NullType, TypeEngine
from sqlmodel.sql.sqltypes import AutoString, UTCDateTime

from vstorage_core.audit import AUDIT_TABLE

_WHOLE_NUMBER = re.compile(r"[+-]?[0-9]{1,4000}")
_DURATION = TypeAdapter(timedelta)
# Above it a float skips whole numbers.
_LARGEST_EXACT = 2**53
_EXACT_DIGITS = 15
# Python's default context rounds to 28 digits.
_EXACT = Context(prec=1000)


class Codec:
    """How the values of one column are written and read.

    Attributes:
        kind: Name of the type in the manifest.
        is_text: Whether the text is free, so that it may be empty, contain quotes or look like a formula.
        is_instant: Whether the values are times with a zone.
    """

    kind: ClassVar[str] = "text"
    is_text: ClassVar[bool] = False
    is_instant: bool = False

    def __init__(self, column: Column[Any], dialect: Dialect) -> None:
        self.column = column

    def expression(self) -> ColumnElement[Any]:
        """What to select: the column as the driver gives it, without SQLAlchemy's conversion."""
        return type_coerce(self.column, NullType())

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        """The exact text of each value; none of them is None."""
        raise NotImplementedError

    def loaded(self, values: Sequence[Any]) -> Sequence[Any]:
        """The Python value of each value; none of them is None.

        Raises:
            ValueError: The database holds something else than the type of the column.
        """
        return list(map(self.parse, self.texts(values)))

    def parse(self, text: str) -> Any:
        """The Python value of a text that stands for one.

        Raises:
            ValueError: It is none, with a sentence that says why.
        """
        raise NotImplementedError

    def accept(self, value: Any) -> Any:
        """The Python value of what a file has that knows types of its own, e.g. a number of JSON; never None.

        Raises:
            ValueError: It is none, with a sentence that says why.
        """
        if isinstance(value, str):
            return self.parse(value)
        raise ValueError(f"is of the type {type(value).__name__} where the column has {self.kind}")


class _TextCodec(Codec):
    """Text as it is."""

    is_text = True

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        # A database of the original may hold something else where the model has text.
        return values if set(map(type, values)) == {str} else list(map(str, values))

    def loaded(self, values: Sequence[Any]) -> Sequence[Any]:
        return self.texts(values)

    def parse(self, text: str) -> Any:
        return text


class _WholeNumberCodec(Codec):
    """Digits."""

    kind = "integer"

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return list(map(str, values))

    def parse(self, text: str) -> Any:
        if _WHOLE_NUMBER.fullmatch(text) is None:
            raise ValueError("is not a whole number")
        return int(text)

    def accept(self, value: Any) -> Any:
        if type(value) is int:
            return value
        # What data tools make of whole numbers as soon as one of them is missing.
        if type(value) is float and value.is_integer() and abs(value) < _LARGEST_EXACT:
            return int(value)
        return super().accept(value)


class _FloatCodec(Codec):
    """The shortest text that is read back as the same number."""

    kind = "float"

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return list(map(repr, map(float, values)))

    def loaded(self, values: Sequence[Any]) -> Sequence[Any]:
        return list(map(float, values))

    def parse(self, text: str) -> Any:
        try:
            if "_" not in text:
                return float(text)
        except ValueError:
            pass
        raise ValueError("is not a number")

    def accept(self, value: Any) -> Any:
        return float(value) if type(value) in (int, float) else super().accept(value)


class _DecimalCodec(Codec):
    """All digits, trailing zeros too."""

    kind = "decimal"

    def __init__(self, column: Column[Any], dialect: Dialect) -> None:
        super().__init__(column, dialect)
        scale = getattr(column.type, "scale", None)
        self._exponent = None if scale is None else Decimal(1).scaleb(-scale)

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return [format(self._load(value), "f") for value in values]

    def loaded(self, values: Sequence[Any]) -> Sequence[Any]:
        return [self._load(value) for value in values]

    def _load(self, value: Any) -> Decimal:
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        return number if self._exponent is None else _EXACT.quantize(number, self._exponent)

    def parse(self, text: str) -> Any:
        try:
            number = Decimal(text)
        except InvalidOperation:
            number = None
        if number is None or "_" in text or not number.is_finite():
            raise ValueError("is not a decimal number")
        return number

    def accept(self, value: Any) -> Any:
        if type(value) in (int, Decimal):
            return Decimal(value)
        if type(value) is float:
            number = Decimal(repr(value))
            if len(number.as_tuple().digits) > _EXACT_DIGITS:
                raise ValueError("has lost digits as a number; write it as text")
            return self.parse(str(number))
        return super().accept(value)


class _BooleanCodec(Codec):
    """true or false."""

    kind = "boolean"
    _values: ClassVar[Mapping[str, bool]] = {"true": True, "false": False, "1": True, "0": False}

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return ["true" if value else "false" for value in values]

    def loaded(self, values: Sequence[Any]) -> Sequence[Any]:
        return list(map(bool, values))

    def parse(self, text: str) -> Any:
        try:
            return self._values[text.lower()]
        except KeyError:
            raise ValueError("is neither true nor false") from None

    def accept(self, value: Any) -> Any:
        return value if type(value) is bool else super().accept(value)


class _DateTimeCodec(Codec):
    """ISO 8601 with microseconds; with +00:00 where the column keeps instants."""

    kind = "datetime"

    def __init__(self, column: Column[Any], dialect: Dialect) -> None:
        super().__init__(column, dialect)
        self.is_instant = isinstance(column.type, UTCDateTime)
        self._zone = "+00:00" if self.is_instant else ""

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        if set(map(type, values)) == {str} and set(map(len, values)) == {26}:
            zone = self._zone
            return [f"{value[:10]}T{value[11:]}{zone}" for value in values]
        return [self._load(value).isoformat(timespec="microseconds") for value in values]

    def loaded(self, values: Sequence[Any]) -> Sequence[Any]:
        return list(map(self._load, values))

    def _load(self, value: Any) -> datetime:
        moment: datetime = datetime.fromisoformat(value) if isinstance(value, str) else value
        if not self.is_instant:
            return moment
        return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)

    def parse(self, text: str) -> Any:
        try:
            # Python 3.10 does not know the Z.
            return datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in "Zz" else text)
        except ValueError:
            raise ValueError("is not a date and time such as 2026-01-31T08:30:00+00:00") from None

    def accept(self, value: Any) -> Any:
        return value if isinstance(value, datetime) else super().accept(value)


class _DateCodec(Codec):
    """ISO 8601."""

    kind = "date"

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return [value if isinstance(value, str) else value.isoformat() for value in values]

    def loaded(self, values: Sequence[Any]) -> Sequence[Any]:
        return [self.parse(value) if isinstance(value, str) else value for value in values]

    def parse(self, text: str) -> Any:
        try:
            return date.fromisoformat(text)
        except ValueError:
            raise ValueError("is not a date such as 2026-01-31") from None

    def accept(self, value: Any) -> Any:
        return value if type(value) is date else super().accept(value)


class _TimeCodec(Codec):
    """ISO 8601."""

    kind = "time"

    def expression(self) -> ColumnElement[Any]:
        # Some drivers give times as timedelta; SQLAlchemy knows which.
        return self.column

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return [value.isoformat() for value in values]

    def loaded(self, values: Sequence[Any]) -> Sequence[Any]:
        return values

    def parse(self, text: str) -> Any:
        try:
            return time.fromisoformat(text)
        except ValueError:
            raise ValueError("is not a time of day such as 08:30:00") from None

    def accept(self, value: Any) -> Any:
        return value if isinstance(value, time) else super().accept(value)


class _DurationCodec(Codec):
    """ISO 8601, e.g. P1DT30M."""

    kind = "duration"

    def expression(self) -> ColumnElement[Any]:
        return self.column

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return [_iso_duration(value) for value in values]

    def loaded(self, values: Sequence[Any]) -> Sequence[Any]:
        return values

    def parse(self, text: str) -> Any:
        try:
            return _DURATION.validate_python(text)
        except ValidationError:
            raise ValueError("is not a duration such as PT1H30M") from None

    def accept(self, value: Any) -> Any:
        return value if isinstance(value, timedelta) else super().accept(value)


class _UuidCodec(Codec):
    """36 characters with hyphens."""

    kind = "uuid"

    def expression(self) -> ColumnElement[Any]:
        return self.column

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return list(map(str, values))

    def parse(self, text: str) -> Any:
        try:
            key = UUID(text)
        except ValueError:
            raise ValueError("is not a UUID") from None
        kind = self.column.type
        return key if not isinstance(kind, sqlalchemy.Uuid) or kind.as_uuid else str(key)


class _EnumCodec(_TextCodec):
    """The name as the database stores it."""

    kind = "enum"

    def __init__(self, column: Column[Any], dialect: Dialect) -> None:
        super().__init__(column, dialect)
        kind: Any = column.type
        load: Callable[[Any], Any] = kind.dialect_impl(dialect).result_processor(dialect, None) or str
        self._members = {name: load(name) for name in kind.enums}

    def parse(self, text: str) -> Any:
        try:
            return self._members[text]
        except KeyError:
            raise ValueError(f"is none of {', '.join(self._members)}") from None


class _BytesCodec(Codec):
    """Base64, which may be empty or begin with a plus sign."""

    kind = "bytes"
    is_text = True

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return [base64.b64encode(value).decode("ascii") for value in values]

    def parse(self, text: str) -> Any:
        try:
            return base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("is not base64") from None

    def loaded(self, values: Sequence[Any]) -> Sequence[Any]:
        return list(map(bytes, values))

    def accept(self, value: Any) -> Any:
        return value if isinstance(value, bytes) else super().accept(value)


class _JsonCodec(_TextCodec):
    """The JSON text, as it stands in the database wherever that keeps text."""

    kind = "json"

    def __init__(self, column: Column[Any], dialect: Dialect) -> None:
        super().__init__(column, dialect)
        stored = _undecorated(column.type).dialect_impl(dialect)
        # Without a processor of SQLAlchemy's the driver itself decodes; asked for text it does not.
        self._driver_decodes = stored.result_processor(dialect, None) is None

    def expression(self) -> ColumnElement[Any]:
        return cast(self.column, Text) if self._driver_decodes else super().expression()

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        if set(map(type, values)) == {str}:
            return values
        # SQLite gives a JSON column numeric affinity: a bare number comes back as one.
        return [value if isinstance(value, str) else json.dumps(value) for value in values]

    def parse(self, text: str) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"is not JSON: {error}") from None

    def accept(self, value: Any) -> Any:
        return super().accept(value) if isinstance(value, str) else value


class _OtherCodec(_TextCodec):
    """A type that vstorage does not know: its Python value as text, or as JSON where it has parts."""

    kind = "other"

    def expression(self) -> ColumnElement[Any]:
        return self.column

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return [value if isinstance(value, str) else _other_text(value) for value in values]

    def parse(self, text: str) -> Any:
        # The model's own validation converts it.
        return text

    def accept(self, value: Any) -> Any:
        return value if isinstance(value, str) else _other_text(value)


def _iso_duration(value: timedelta) -> str:
    microseconds = value // timedelta(microseconds=1)
    seconds, fraction = divmod(abs(microseconds), 1_000_000)
    days, seconds = divmod(seconds, 86_400)
    sign = "-" if microseconds < 0 else ""
    return f"{sign}P{days}DT{seconds}.{fraction:06d}S"


def _other_text(value: Any) -> str:
    text = to_json(value, bytes_mode="base64", inf_nan_mode="constants", fallback=str).decode()
    return str(json.loads(text)) if text.startswith('"') else text


def _undecorated(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    return kind.impl_instance if isinstance(kind, TypeDecorator) else kind


# The first that fits: SQLAlchemy's Enum is a String, its Float may be a Numeric, its Interval a TypeDecorator.
_BY_TYPE: tuple[tuple[type[TypeEngine[Any]], type[Codec]], ...] = (
    (UTCDateTime, _DateTimeCodec),
    (AutoString, _TextCodec),
    (sqlalchemy.Interval, _DurationCodec),
    (TypeDecorator, _OtherCodec),
    (sqlalchemy.Enum, _EnumCodec),
    (sqlalchemy.Boolean, _BooleanCodec),
    (sqlalchemy.Integer, _WholeNumberCodec),
    (sqlalchemy.Float, _FloatCodec),
    (sqlalchemy.Numeric, _DecimalCodec),
    (sqlalchemy.DateTime, _DateTimeCodec),
    (sqlalchemy.Date, _DateCodec),
    (sqlalchemy.Time, _TimeCodec),
    (sqlalchemy.Uuid, _UuidCodec),
    (sqlalchemy.LargeBinary, _BytesCodec),
    (sqlalchemy.JSON, _JsonCodec),
    (sqlalchemy.String, _TextCodec),
    (TypeEngine, _OtherCodec),
)


def with_nulls(convert: Callable[[Sequence[Any]], Sequence[Any]], values: Sequence[Any], null: Any) -> Sequence[Any]:
    """The values converted, and `null` in the place of each None."""
    if None not in values:
        return convert(values)
    converted = iter(convert([value for value in values if value is not None]))
    return [null if value is None else next(converted) for value in values]


def codec_of(column: Column[Any], dialect: Dialect) -> Codec:
    """How the values of the column are written and read."""
    kind = column.type
    if column.table is AUDIT_TABLE and not isinstance(kind, UTCDateTime | AutoString):
        # The audit trail's own types only decode what stands there as text.
        kind = _undecorated(kind)
    return next(codec(column, dialect) for known, codec in _BY_TYPE if isinstance(kind, known))
