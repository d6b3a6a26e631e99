"""The table that a file is imported into, and the rows of a file as values of its model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Dialect
from sqlmodel import SQLModel

from vstorage_core import InvalidInput, ModelAccessor, Storage
from vstorage_core.records import Values
from vstorage_transfer.codecs import Codec, codec_of


def is_comment(name: str) -> bool:
    """Whether a column of this name is for people, as in a file of bad rows."""
    return name.startswith("#")


class Finding(NamedTuple):
    """What is wrong with a row.

    Attributes:
        column: Name of the column, or None when it is the row as a whole.
        reason: A sentence without its subject, e.g. "is not a whole number".
    """

    column: str | None
    reason: str

    def __str__(self) -> str:
        return self.reason if self.column is None else f"{self.column}: {self.reason}"


class Row(NamedTuple):
    """A row of a file.

    Attributes:
        line: Where it begins, or its number where a file has no lines; counted from 1.
        source: What the file has there, for its format alone.
        size: About how many bytes it is.
        values: By attribute of the model; without a key where there is none.
    """

    line: int
    source: Any
    size: int
    values: Values


class BadRow(NamedTuple):
    """A row of a file that cannot be read or stored; `line`, `source` and `size` as in `Row`."""

    line: int
    source: Any
    size: int
    findings: list[Finding]


class ImportTable:
    """A table into which files can be imported.

    Attributes:
        accessor: Writes its records.
        name: Of the table.
        columns: By name, the attribute of the model and how values are read.
    """

    def __init__(self, storage: Storage, accessor: ModelAccessor[Any], dialect: Dialect) -> None:
        # An accessor without a storage of its own works on whatever is the default one by now.
        self.accessor = accessor.bound_to(storage)
        self.record = accessor.record
        self.name: str = self.record.mapper.local_table.name
        self.columns: dict[str, tuple[str, Codec]] = {
            column.name: (attribute, codec_of(column, dialect)) for attribute, column in self.record.columns.items()
        }
        self._fields = accessor.model.model_fields

    def row(self, line: int, source: Any, size: int, values: Values, findings: list[Finding]) -> Row | BadRow:
        """The row of a file with these values by attribute, unless something is wrong with it."""
        key = self.record.key
        if values.get(key, "") is None:
            del values[key]
        elif key in values:
            try:
                values[key] = self.record.identity(values[key])
            except InvalidInput as error:
                findings.append(Finding(self.record.key_column.name, str(error)))
        return BadRow(line, source, size, findings) if findings else Row(line, source, size, values)

    def missing(self, names: Sequence[str], *, needs_key: bool) -> list[str]:
        """Required columns that are not among `names`."""
        return [
            name
            for name, (attribute, _) in self.columns.items()
            if name not in names and (self._is_required(attribute) or (needs_key and attribute == self.record.key))
        ]

    def _is_required(self, attribute: str) -> bool:
        if self.record.fills_in(attribute):
            return False
        field = self._fields.get(attribute)
        return field.is_required() if field is not None else not self.record.columns[attribute].nullable

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Those of `names` that are neither a column nor a comment."""
        return [name for name in names if name not in self.columns and not is_comment(name)]

    def make(self, values: Mapping[str, Any]) -> SQLModel:
        """A new instance of the model."""
        instance: SQLModel = self.accessor.model(**values)
        for name in values.keys() - self._fields.keys():
            setattr(instance, name, values[name])
        return instance

    def changed(self, attributes: Sequence[str], before: Values, after: Values) -> list[str]:
        """Those of the attributes that differ as the audit trail sees it: in JSON, 1 is not true."""
        return [
            name
            for name in attributes
            if before[name] is not after[name]
            and (type(before[name]) is not str or before[name] != after[name])
            and self.record.snapshot({name: before[name]}) != self.record.snapshot({name: after[name]})
        ]

    def finding(self, problem: Mapping[str, Any]) -> Finding:
        """What the model's validation found, as pydantic tells it."""
        column = self.record.columns.get(problem["loc"][0]) if problem["loc"] else None
        return Finding(None if column is None else column.name, problem["msg"].removeprefix("Value error, "))

    def shown(self, attribute: str, value: Any) -> Any:
        """The value as JSON carries it."""
        return json.loads(self.record.snapshot({attribute: value}))[attribute]
