"""The text of a cell: how a column's values are written to CSV and read from it, per column type.

A `Cells` object belongs to one column. It converts whole columns of a chunk of rows at once, so that the loop over
the rows runs in C, and reads values as the driver gives them wherever their text follows from that: a time that
SQLite keeps as text is never parsed only to be formatted again.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal, InvalidOperation
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


class Cells:
    """The cells of one column.

    Attributes:
        kind: Name of the type in the manifest.
        is_text: Whether the text is free, so that it may be empty, contain quotes or look like a formula.
    """

    kind: ClassVar[str] = "text"
    is_text: ClassVar[bool] = False

    def __init__(self, column: Column[Any], dialect: Dialect) -> None:
        self.column = column

    def expression(self) -> ColumnElement[Any]:
        """What to select: the column as the driver gives it, without SQLAlchemy's conversion."""
        return type_coerce(self.column, NullType())

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        """The exact text of each value; none of them is None."""
        raise NotImplementedError

    def sheet_texts(self, values: Sequence[Any]) -> Sequence[str]:
        """The text of each value as a spreadsheet recognises it."""
        return self.texts(values)

    def parse(self, text: str) -> Any:
        """The Python value of a cell that is not NULL.

        Raises:
            ValueError: It is none, with a sentence that says why.
        """
        raise NotImplementedError

    def parse_sheet(self, text: str) -> Any:
        """`parse` for what a spreadsheet wrote."""
        return self.parse(text)


class _TextCells(Cells):
    """Text as it is."""

    is_text = True

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        # A database of the original may hold something else where the model has text.
        return values if set(map(type, values)) == {str} else list(map(str, values))

    def parse(self, text: str) -> Any:
        return text


class _WholeNumberCells(Cells):
    """Digits."""

    kind = "integer"

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return list(map(str, values))

    def parse(self, text: str) -> Any:
        if _WHOLE_NUMBER.fullmatch(text) is None:
            raise ValueError("is not a whole number")
        return int(text)


class _FloatCells(Cells):
    """The shortest text that is read back as the same number."""

    kind = "float"

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return list(map(repr, map(float, values)))

    def parse(self, text: str) -> Any:
        try:
            if "_" not in text:
                return float(text)
        except ValueError:
            pass
        raise ValueError("is not a number")


class _DecimalCells(Cells):
    """All digits, trailing zeros too."""

    kind = "decimal"

    def __init__(self, column: Column[Any], dialect: Dialect) -> None:
        super().__init__(column, dialect)
        scale = getattr(column.type, "scale", None)
        self._exponent = None if scale is None else Decimal(1).scaleb(-scale)

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return [format(self._load(value), "f") for value in values]

    def _load(self, value: Any) -> Decimal:
        number = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        return number if self._exponent is None else number.quantize(self._exponent)

    def parse(self, text: str) -> Any:
        try:
            number = Decimal(text)
        except InvalidOperation:
            number = None
        if number is None or "_" in text or not number.is_finite():
            raise ValueError("is not a decimal number")
        return number


class _BooleanCells(Cells):
    """true or false."""

    kind = "boolean"
    _values: ClassVar[Mapping[str, bool]] = {"true": True, "false": False, "1": True, "0": False}

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return ["true" if value else "false" for value in values]

    def sheet_texts(self, values: Sequence[Any]) -> Sequence[str]:
        return ["TRUE" if value else "FALSE" for value in values]

    def parse(self, text: str) -> Any:
        try:
            return self._values[text.lower()]
        except KeyError:
            raise ValueError("is neither true nor false") from None


class _DateTimeCells(Cells):
    """ISO 8601 with microseconds; with +00:00 where the column keeps instants."""

    kind = "datetime"

    def __init__(self, column: Column[Any], dialect: Dialect) -> None:
        super().__init__(column, dialect)
        self._is_instant = isinstance(column.type, UTCDateTime)
        self._zone = "+00:00" if self._is_instant else ""

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        if set(map(type, values)) == {str} and set(map(len, values)) == {26}:
            zone = self._zone
            return [f"{value[:10]}T{value[11:]}{zone}" for value in values]
        return [self._load(value).isoformat(timespec="microseconds") for value in values]

    def sheet_texts(self, values: Sequence[Any]) -> Sequence[str]:
        # Spreadsheets take a time with a zone, or with the T of ISO 8601, for text.
        return [self._load(value).replace(tzinfo=None).isoformat(" ").removesuffix(".000000") for value in values]

    def _load(self, value: Any) -> datetime:
        moment: datetime = datetime.fromisoformat(value) if isinstance(value, str) else value
        if not self._is_instant:
            return moment
        return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment.astimezone(timezone.utc)

    def parse(self, text: str) -> Any:
        try:
            # Python 3.10 does not know the Z.
            return datetime.fromisoformat(text[:-1] + "+00:00" if text[-1:] in "Zz" else text)
        except ValueError:
            raise ValueError("is not a date and time such as 2026-01-31T08:30:00+00:00") from None

    def parse_sheet(self, text: str) -> Any:
        moment = self.parse(text)
        return moment.replace(tzinfo=timezone.utc) if self._is_instant and moment.tzinfo is None else moment


class _DateCells(Cells):
    """ISO 8601."""

    kind = "date"

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return [value if isinstance(value, str) else value.isoformat() for value in values]

    def parse(self, text: str) -> Any:
        try:
            return date.fromisoformat(text)
        except ValueError:
            raise ValueError("is not a date such as 2026-01-31") from None


class _TimeCells(Cells):
    """ISO 8601."""

    kind = "time"

    def expression(self) -> ColumnElement[Any]:
        # Some drivers give times as timedelta; SQLAlchemy knows which.
        return self.column

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return [value.isoformat() for value in values]

    def parse(self, text: str) -> Any:
        try:
            return time.fromisoformat(text)
        except ValueError:
            raise ValueError("is not a time of day such as 08:30:00") from None


class _DurationCells(Cells):
    """ISO 8601, e.g. P1DT30M."""

    kind = "duration"

    def expression(self) -> ColumnElement[Any]:
        return self.column

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return [_iso_duration(value) for value in values]

    def parse(self, text: str) -> Any:
        try:
            return _DURATION.validate_python(text)
        except ValidationError:
            raise ValueError("is not a duration such as PT1H30M") from None


class _UuidCells(Cells):
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


class _EnumCells(_TextCells):
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


class _BytesCells(Cells):
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


class _JsonCells(_TextCells):
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


class _OtherCells(_TextCells):
    """A type that vstorage does not know: its Python value as text, or as JSON where it has parts."""

    kind = "other"

    def expression(self) -> ColumnElement[Any]:
        return self.column

    def texts(self, values: Sequence[Any]) -> Sequence[str]:
        return [value if isinstance(value, str) else _other_text(value) for value in values]

    def parse(self, text: str) -> Any:
        # The model's own validation converts it.
        return text


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
_BY_TYPE: tuple[tuple[type[TypeEngine[Any]], type[Cells]], ...] = (
    (UTCDateTime, _DateTimeCells),
    (AutoString, _TextCells),
    (sqlalchemy.Interval, _DurationCells),
    (TypeDecorator, _OtherCells),
    (sqlalchemy.Enum, _EnumCells),
    (sqlalchemy.Boolean, _BooleanCells),
    (sqlalchemy.Integer, _WholeNumberCells),
    (sqlalchemy.Float, _FloatCells),
    (sqlalchemy.Numeric, _DecimalCells),
    (sqlalchemy.DateTime, _DateTimeCells),
    (sqlalchemy.Date, _DateCells),
    (sqlalchemy.Time, _TimeCells),
    (sqlalchemy.Uuid, _UuidCells),
    (sqlalchemy.LargeBinary, _BytesCells),
    (sqlalchemy.JSON, _JsonCells),
    (sqlalchemy.String, _TextCells),
    (TypeEngine, _OtherCells),
)


def cells_of(column: Column[Any], dialect: Dialect) -> Cells:
    """How the values of the column are written and read."""
    kind = column.type
    if column.table is AUDIT_TABLE and not isinstance(kind, UTCDateTime | AutoString):
        # The audit trail's own types only decode what stands there as text.
        kind = _undecorated(kind)
    return next(cells(column, dialect) for known, cells in _BY_TYPE if isinstance(kind, known))
