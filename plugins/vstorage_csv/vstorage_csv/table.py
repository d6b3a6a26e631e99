"""One CSV file and the table that it is imported into: its header, and its rows as values of the model."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sqlalchemy import Dialect as SqlDialect
from sqlmodel import SQLModel

from vstorage_core import ImportRefused, InvalidInput, ModelAccessor, Storage
from vstorage_core.records import Values
from vstorage_csv.archive import Dialect
from vstorage_csv.cells import Cells, cells_of
from vstorage_csv.lines import BYTE_ORDER_MARK, FORMULA_STARTS, Line, quoted, split_cells
from vstorage_csv.upload import CsvFile

DELIMITERS = (",", ";", "\t")
# A column of this kind of name is for people, as in errors.csv.
COMMENT_MARK = "#"
CHUNK_ROWS = 500
_CHUNK_CHARACTERS = 1024 * 1024


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


@dataclass(frozen=True)
class Header:
    """The first line of a file.

    Attributes:
        text: As it stands there.
        names: Of the columns.
        delimiter: Between the cells, in the whole file.
    """

    text: str
    names: list[str]
    delimiter: str


class Row(NamedTuple):
    """A row of a file.

    Attributes:
        values: By attribute of the model; without a key where the cell of the key is empty.
    """

    line: Line
    values: Values


class BadRow(NamedTuple):
    """A row of a file that cannot be read."""

    line: Line
    findings: list[Finding]


class ImportTable:
    """A table into which files can be imported."""

    def __init__(self, storage: Storage, accessor: ModelAccessor[Any], sql_dialect: SqlDialect) -> None:
        # An accessor without a storage of its own works on whatever is the default one by now.
        self.accessor = accessor.bound_to(storage)
        self.record = accessor.record
        self.name: str = self.record.mapper.local_table.name
        self.columns: dict[str, tuple[str, Cells]] = {
            column.name: (attribute, cells_of(column, sql_dialect)) for attribute, column in self.record.columns.items()
        }
        self._fields = accessor.model.model_fields

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
        return [name for name in names if name not in self.columns and not name.startswith(COMMENT_MARK)]

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


class TableFile:
    """A file and the table that its rows go to.

    Raises:
        ImportRefused: The header does not fit the table.
    """

    def __init__(self, file: CsvFile, header: Header, table: ImportTable, dialect: Dialect, *, needs_key: bool) -> None:
        self.file = file
        self.header = header
        self.table = table
        self._from_spreadsheet = dialect == "spreadsheet"
        names = header.names
        unknown = table.unknown(names)
        if unknown:
            raise ImportRefused(
                f"{file.name}: the table {table.name} has no column {', '.join(map(repr, unknown))};"
                f" it has {', '.join(table.columns)}"
            )
        missing = table.missing(names, needs_key=needs_key)
        if missing:
            hint = "; with mode=insert the database makes keys" if not table.missing(names, needs_key=False) else ""
            raise ImportRefused(f"{file.name}: the column {', '.join(map(repr, missing))} is missing{hint}")
        self._columns = [(name, *table.columns[name]) if name in table.columns else None for name in names]

    def cell(self, line: Line, column: str | None) -> str | None:
        """The text that the line has in the column."""
        if column in self.header.names and len(line.cells) == len(self.header.names):
            return line.cells[self.header.names.index(column)]
        return None

    def errors_csv(self, rows: Sequence[BadRow]) -> str:
        """A CSV file of these rows, with what is wrong with them in columns that an import leaves alone."""

        def text(line: int | str, columns: str, reasons: str, cells: str) -> str:
            notes = quoted([columns, reasons], defused=self._from_spreadsheet)
            return self.header.delimiter.join([str(line), *notes, cells]) + "\r\n"

        mark = BYTE_ORDER_MARK if self._from_spreadsheet else ""
        parts = [mark, text("#line", "#column", "#reason", self.header.text)]
        for row in rows:
            columns = ", ".join(finding.column for finding in row.findings if finding.column is not None)
            parts.append(text(row.line.number, columns, "; ".join(map(str, row.findings)), row.line.text))
        return "".join(parts)

    def chunks(self) -> Iterator[tuple[list[Row], list[BadRow]]]:
        """The rows of the file in order, some at a time; no two rows of a chunk have the same key."""
        good: list[Row] = []
        bad: list[BadRow] = []
        keys: set[Any] = set()
        length = 0
        for row in self._rows():
            key = row.values.get(self.table.record.key) if isinstance(row, Row) else None
            if key in keys or len(good) + len(bad) >= CHUNK_ROWS or length > _CHUNK_CHARACTERS:
                yield good, bad
                good, bad, length = [], [], 0
                keys.clear()
            length += len(row.line.text)
            if isinstance(row, BadRow):
                bad.append(row)
                continue
            good.append(row)
            if key is not None:
                keys.add(key)
        yield good, bad

    def _rows(self) -> Iterator[Row | BadRow]:
        with self.file.reader() as reader:
            reader.header()
            for line in reader.lines(self.header.delimiter):
                yield self._row(line)

    def _row(self, line: Line) -> Row | BadRow:
        if line.problem:
            return BadRow(line, [Finding(None, line.problem)])
        if len(line.cells) != len(self._columns):
            reason = f"has {len(line.cells)} cells where the header has {len(self._columns)}"
            return BadRow(line, [Finding(None, reason)])
        values: Values = {}
        findings = []
        for column, text in zip(self._columns, line.cells, strict=True):
            if column is None:
                continue
            name, attribute, cells = column
            try:
                if text is None:
                    values[attribute] = self._of_empty(cells)
                elif self._from_spreadsheet:
                    values[attribute] = _from_sheet(cells, text)
                else:
                    values[attribute] = cells.parse(text)
            except ValueError as error:
                findings.append(Finding(name, str(error)))
        key = self.table.record.key
        if values.get(key, "") is None:
            del values[key]
        elif key in values:
            try:
                values[key] = self.table.record.identity(values[key])
            except InvalidInput as error:
                findings.append(Finding(self.table.record.key_column.name, str(error)))
        return BadRow(line, findings) if findings else Row(line, values)

    def _of_empty(self, cells: Cells) -> str | None:
        # Spreadsheets drop the quotes of an empty text.
        is_text = cells.kind == "text" and not cells.column.nullable and not cells.column.primary_key
        return "" if self._from_spreadsheet and is_text else None


def _from_sheet(cells: Cells, text: str) -> Any:
    if cells.is_text and text.startswith("'") and text[1:].startswith(FORMULA_STARTS):
        text = text[1:]
    return cells.parse_sheet(text)


def read_header(file: CsvFile, known: set[str]) -> Header:
    """The header of the file.

    Args:
        file: To read.
        known: Names of columns that there are; the delimiter is the one that finds most of them.

    Raises:
        ImportRefused: There is none, or its names make no sense.
    """
    with file.reader() as reader:
        text = reader.header()
    best: list[str | None] = []
    best_delimiter, most = ",", -1
    for delimiter in DELIMITERS:
        try:
            cells = split_cells(text, delimiter)
        except ValueError:
            continue
        found = len(known.intersection(cells))
        if found > most:
            best, best_delimiter, most = cells, delimiter, found
    names = [name.strip() for name in best if name is not None]
    if not best or len(names) < len(best):
        raise ImportRefused(f"{file.name}: the first line must name every column")
    twice = sorted({name for name in names if names.count(name) > 1 and not name.startswith(COMMENT_MARK)})
    if twice:
        raise ImportRefused(f"{file.name}: two columns are called {', '.join(twice)}")
    return Header(text, names, best_delimiter)
