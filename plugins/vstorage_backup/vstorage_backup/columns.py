"""How values of the models' columns stand in a backup file, and what a file may hold in them.

SQLite stores any kind of value in any column, so a file from elsewhere is checked value by value against the models:
by SQLite where its word is enough, which is many times faster, else by Python.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timezone
from decimal import Decimal
from types import NoneType
from typing import Any, NamedTuple

import sqlalchemy
from pydantic_core import from_json
from sqlalchemy import (
    JSON,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Double,
    Float,
    Integer,
    Numeric,
    Text,
    TypeDecorator,
)
from sqlalchemy.types import NullType, TypeEngine

from vstorage_core.audit import AUDIT_TABLE
from vstorage_core.engine import EngineSettings, open_backend

CHUNK_ROWS = 1000
CHUNK_CHARACTERS = 1 << 20

_KINDS: dict[type, str] = {
    NoneType: "nothing",
    int: "a whole number",
    float: "a number",
    str: "text",
    bytes: "bytes or broken text",
}

_SURE_MOMENT = (
    "typeof({0}) = 'text' AND {0} GLOB '####-##-## ##:##:##.######' AND length(CAST({0} AS BLOB)) = 26"
    # SQLite has a year 0, and a 31st of February that is the 3rd of March as soon as it counts days.
    " AND {0} NOT GLOB '0000*' AND datetime(substr({0}, 1, 19), '+0 days') = substr({0}, 1, 19)"
).replace("#", "[0-9]")
_SURE_DAY = (
    "typeof({0}) = 'text' AND {0} GLOB '####-##-##' AND length(CAST({0} AS BLOB)) = 10"
    " AND {0} NOT GLOB '0000*' AND date({0}, '+0 days') = substr({0}, 1)"
).replace("#", "[0-9]")
_SURE_UUID = "typeof({0}) = 'text' AND length(CAST({0} AS BLOB)) = 32 AND {0} NOT GLOB '*[^0-9a-f]*'"
_SURE_FLOAT = "typeof({0}) = 'integer' OR typeof({0}) = 'real' AND abs({0}) < 9e999"


class _Rule(NamedTuple):
    """Which values a column may have.

    Attributes:
        types: How they may be stored.
        parse: Raises where one is wrong.
        expected: What they should be.
        sure: SQL that is true only for values that the other fields allow, with {0} for the column; it may be false or
            NULL for some that are allowed.
    """

    types: frozenset[type]
    parse: Callable[[Any], Any] | None
    expected: str
    sure: str | None = None


@functools.cache
def file_dialect() -> Dialect:
    """SQLite with the core's ways to store each type."""
    return open_backend("sqlite://", EngineSettings()).write_engine.dialect


class FileColumn:
    """One column of a model in a backup file.

    Args:
        column: The model's column.
        target: The database that the values will be restored to.

    Attributes:
        name: Of the column, in the file as in the database.
        type: Its type, as every database has it.
        declared_type: Its type where we make the file's table.
        load: Turns a stored value into the one that the model's type takes, or is None where they are the same.
        dump: The reverse of `load`.
        expected: What its values should be.
        is_text: Whether it holds texts as people write them.
        sure: SQL that is true only for values that are allowed, once texts are known to be UTF-8 without NUL
            characters; None where only `problem` can tell.
    """

    def __init__(self, column: Column[Any], target: Dialect | None = None) -> None:
        dialect = file_dialect()
        self.type = _portable(column.type)
        kind = self.type.dialect_impl(dialect)
        stored = _undecorated(kind)
        self.name = column.name
        self.column = column
        self.declared_type: TypeEngine[Any] = self.type
        self.load: Callable[[Any], Any] | None = kind.result_processor(dialect, None)
        self.dump: Callable[[Any], Any] | None = kind.bind_processor(dialect)
        self._is_json = isinstance(stored, JSON)
        self.is_large = isinstance(stored, sqlalchemy.String | sqlalchemy.LargeBinary | JSON)
        if self._is_json:
            # The text itself, so that NULL and JSON's null, and every digit, stay what they are.
            self.declared_type, self.load, self.dump = JSON(), None, None
        elif isinstance(stored, Numeric) and not isinstance(stored, Float):
            # As text: SQLite keeps 15 digits of a number, servers more.
            keeps = self.dump if target is not None and target.name == "sqlite" else None
            self.declared_type, self.load, self.dump = Text(), _decimal_loader(self.load, keeps), str
        elif isinstance(stored, sqlalchemy.DateTime) and stored.timezone and not isinstance(self.type, TypeDecorator):
            self.load, self.dump = _instant_functions(self.load, self.dump)
        elif isinstance(stored, sqlalchemy.String) and not isinstance(stored, sqlalchemy.Enum):
            # Without the server's collation.
            self.declared_type = Text()
        types, self._parse, self.expected, sure = self._rule(kind, stored)
        self.is_text = sure is not None and str in types and self._parse in (None, _require_no_nul)
        if column.nullable and not column.primary_key:
            types = types | {NoneType}
            sure = sure and f"{{0}} IS NULL OR {sure}"
        self._types = types
        # The name as SQLite writes identifiers.
        self.sure = sure and sure.format('"' + column.name.replace('"', '""') + '"')

    def _rule(self, kind: TypeEngine[Any], stored: TypeEngine[Any]) -> _Rule:
        load = self.load
        # What a type of the application's own makes of a value, SQL cannot know.
        is_known = type(self.type).__module__.startswith(("sqlalchemy.", "sqlmodel."))
        if self._is_json:
            return _Rule(frozenset({str, int, float}), _require_json, "JSON")
        if isinstance(stored, sqlalchemy.Enum):
            return _Rule(frozenset({str}), load, f"one of {', '.join(map(str, stored.enums))}")
        if isinstance(stored, Boolean):
            return _Rule(frozenset({int}), _require_bit, "0 or 1", "typeof({0}) = 'integer' AND {0} IN (0, 1)")
        if isinstance(stored, Integer):
            return _Rule(frozenset({int}), load, "a whole number", None if load else "typeof({0}) = 'integer'")
        if isinstance(stored, Float):
            return _Rule(frozenset({int, float}), _require_finite, "a finite number", _SURE_FLOAT)
        if isinstance(stored, Numeric):
            return _Rule(frozenset({int, float, str}), load, "a decimal number that this database can keep")
        if isinstance(stored, sqlalchemy.DateTime | sqlalchemy.Interval):
            matches = _matching(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,6})?", load)
            return _Rule(frozenset({str}), matches, "a date and time", _SURE_MOMENT if is_known else None)
        if isinstance(stored, sqlalchemy.Date):
            matches = _matching(r"\d{4}-\d\d-\d\d", load)
            return _Rule(frozenset({str}), matches, "a date", _SURE_DAY if is_known else None)
        if isinstance(stored, sqlalchemy.Time):
            return _Rule(frozenset({str}), _matching(r"\d\d:\d\d:\d\d(\.\d{1,6})?", load), "a time of day")
        if isinstance(stored, sqlalchemy.Uuid):
            expected = "a UUID of 32 lower-case hexadecimal digits"
            return _Rule(frozenset({str}), _matching(r"[0-9a-f]{32}", load), expected, _SURE_UUID if is_known else None)
        if isinstance(stored, sqlalchemy.LargeBinary):
            return _Rule(frozenset({bytes}), load, "bytes", None if load else "typeof({0}) = 'blob'")
        if isinstance(stored, sqlalchemy.String):
            if self.column is AUDIT_TABLE.c.record_id:
                # The original knows whole numbers only.
                return _Rule(frozenset({str, int}), None, "text or a whole number", "typeof({0}) = 'text'")
            rule = _require_no_nul if load is None else _text_rule(load)
            return _Rule(
                frozenset({str}), rule, "text without NUL characters", None if load else "typeof({0}) = 'text'"
            )
        return _Rule(frozenset({int, float, str, bytes}), load, f"a value of {kind!r}")

    def problem(self, values: Sequence[Any]) -> tuple[int, str] | None:
        """Position of the first value that the model does not allow and what is wrong with it, or None."""
        if not self._types.issuperset(map(type, values)):
            index = next(index for index, value in enumerate(values) if type(value) not in self._types)
            return index, f"holds {_KINDS[type(values[index])]}, not {self.expected}"
        if self._parse is not None:
            for index, value in enumerate(values):
                if value is not None:
                    try:
                        self._parse(value)
                    # Types of applications fail in ways that nobody can list.
                    except Exception:
                        return index, f"is not {self.expected}"
        return None

    def stored(self, value: Any) -> Any:
        """A value of the model's type as it stands in a file."""
        if value is None:
            return None
        if self._is_json:
            return json.dumps(value)
        return value if self.dump is None else self.dump(value)

    def loaded(self, stored: Any) -> Any:
        """A value as it stands in a file as one of the model's type; the text of JSON stays text."""
        return stored if stored is None or self.load is None else self.load(stored)

    def server_expression(self) -> ColumnElement[Any]:
        """What to select from a server."""
        return sqlalchemy.cast(self.column, Text) if self._is_json else sqlalchemy.type_coerce(self.column, self.type)

    def server_column(self) -> sqlalchemy.ColumnClause[Any]:
        """What to insert into on a server."""
        # Without a type, for a parameter of type text is refused by JSON columns.
        return sqlalchemy.column(self.column.name, NullType() if self._is_json else self.type)


def file_columns(columns: Iterable[Column[Any]], target: Dialect | None = None) -> list[FileColumn]:
    """The columns that are stored: a computed one follows from the others."""
    return [FileColumn(column, target) for column in columns if column.computed is None]


def in_chunks(rows: Iterable[Sequence[Any]], columns: Sequence[FileColumn]) -> Iterator[list[Sequence[Any]]]:
    """The rows in lists that fit in memory however long their texts are."""
    large = [index for index, column in enumerate(columns) if column.is_large]
    chunk: list[Sequence[Any]] = []
    characters = 0
    for row in rows:
        chunk.append(row)
        for index in large:
            value = row[index]
            if type(value) is str or type(value) is bytes:
                characters += len(value)
        if len(chunk) >= CHUNK_ROWS or characters >= CHUNK_CHARACTERS:
            yield chunk
            chunk, characters = [], 0
    if chunk:
        yield chunk


def converted(
    rows: Sequence[Sequence[Any]], processors: Sequence[Callable[[Any], Any] | None]
) -> Iterator[Sequence[Any]]:
    """The rows with each column's values put through its processor; None stays None."""
    columns: list[Iterable[Any]] = []
    for values, process in zip(zip(*rows, strict=True), processors, strict=True):
        if process is None:
            columns.append(values)
        else:
            columns.append([None if value is None else process(value) for value in values])
    return zip(*columns, strict=True)


def _portable(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    """The type that every database has in place of one that a single server has, as tables without a model do."""
    if isinstance(kind, TypeDecorator):
        return kind
    try:
        generic = kind.as_generic()
    except NotImplementedError:
        return kind
    return Double() if isinstance(generic, Float) and generic.asdecimal else generic


def _undecorated(kind: TypeEngine[Any]) -> TypeEngine[Any]:
    while isinstance(kind, TypeDecorator):
        kind = kind.impl if isinstance(kind.impl, TypeEngine) else kind.impl()
    return kind


def _decimal_loader(
    load_number: Callable[[Any], Any] | None, keeps: Callable[[Any], Any] | None
) -> Callable[[Any], Any]:
    def load(value: Any) -> Any:
        if not isinstance(value, str):
            loaded = load_number(value) if load_number else value
            if not math.isfinite(value):
                raise ValueError("not finite")
            return loaded
        exact = Decimal(value)
        if not exact.is_finite():
            raise ValueError("not finite")
        if keeps is not None:
            keeps(exact)
        return exact

    return load


def _instant_functions(
    load: Callable[[Any], Any] | None, dump: Callable[[Any], Any] | None
) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """For columns with a time zone whose type leaves the conversion to the database."""

    def load_instant(value: Any) -> Any:
        moment = load(value) if load else value
        return moment.replace(tzinfo=timezone.utc)

    def dump_instant(value: Any) -> Any:
        moment = value if value.tzinfo is None else value.astimezone(timezone.utc).replace(tzinfo=None)
        return dump(moment) if dump else moment

    return load_instant, dump_instant


def _matching(pattern: str, load: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    matches = re.compile(pattern, re.ASCII).fullmatch

    def parse(value: str) -> None:
        # A text that means the same but is spelled otherwise would not be found and not be sorted rightly.
        if matches(value) is None:
            raise ValueError("spelled otherwise")
        if load is not None:
            load(value)

    return parse


def _require_no_nul(value: str) -> None:
    if "\0" in value:
        raise ValueError("NUL")


def _text_rule(load: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def parse(value: str) -> None:
        _require_no_nul(value)
        load(value)

    return parse


def _require_bit(value: int) -> None:
    if value not in (0, 1):
        raise ValueError("neither 0 nor 1")


def _require_finite(value: float) -> None:
    if not math.isfinite(value):
        raise ValueError("not finite")


def _require_json(value: Any) -> None:
    if not isinstance(value, str):
        # SQLite makes a number of a text that looks like one.
        _require_finite(value)
        return
    loaded = from_json(value, allow_inf_nan=False)
    if "\\u0000" in value and "\\u0000" in json.dumps(loaded):
        raise ValueError("NUL")
