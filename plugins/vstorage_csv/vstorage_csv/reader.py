"""Reads the lines of a CSV file as rows of a table."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vstorage_core import ImportRefused
from vstorage_core.records import Values
from vstorage_csv.lines import BYTE_ORDER_MARK, FORMULA_STARTS, Line, LineReader, quoted, split_cells
from vstorage_csv.sheet import Sheet
from vstorage_transfer import BadRow, Codec, FileReader, Finding, ImportTable, Row, UploadedFile, is_comment

DELIMITERS = (",", ";", "\t")


class CsvReader(FileReader):
    """Reads one file.

    Args:
        file: Of the upload.
        known: Names of columns that there are; the delimiter is the one that finds most of them.
        sheet: How its values are written; None: exactly.

    Raises:
        ImportRefused: It has no header, or the names there make no sense.
    """

    names: Sequence[str]

    def __init__(self, file: UploadedFile, known: Collection[str], sheet: Sheet | None) -> None:
        self._file = file
        self._sheet = sheet
        with self._lines() as lines:
            self._header = lines.header()
        best: list[str | None] = []
        self._delimiter, most = ",", -1
        for delimiter in DELIMITERS:
            try:
                cells = split_cells(self._header, delimiter)
            except ValueError:
                continue
            found = len(set(known).intersection(cells))
            if found > most:
                best, self._delimiter, most = cells, delimiter, found
        self.names = [name.strip() for name in best if name is not None]
        if not best or len(self.names) < len(best):
            raise ImportRefused(f"{file.name}: the first line must name every column")
        twice = sorted({name for name in self.names if self.names.count(name) > 1 and not is_comment(name)})
        if twice:
            raise ImportRefused(f"{file.name}: two columns are called {', '.join(twice)}")

    @contextmanager
    def _lines(self) -> Iterator[LineReader]:
        with self._file.open() as stream:
            yield LineReader(stream, self._file.name, self._file.settings.max_row_bytes)

    def rows(self, table: ImportTable) -> Iterator[Row | BadRow]:
        """The rows in the order of the file."""
        columns = [(name, *table.columns[name]) if name in table.columns else None for name in self.names]
        with self._lines() as lines:
            lines.header()
            for line in lines.lines(self._delimiter):
                yield self._row(table, columns, line)

    def _row(self, table: ImportTable, columns: Sequence[tuple[str, str, Codec] | None], line: Line) -> Row | BadRow:
        if line.problem:
            return BadRow(line.number, line, len(line.text), [Finding(None, line.problem)])
        if len(line.cells) != len(columns):
            reason = f"has {len(line.cells)} cells where the header has {len(columns)}"
            return BadRow(line.number, line, len(line.text), [Finding(None, reason)])
        values: Values = {}
        findings = []
        for column, text in zip(columns, line.cells, strict=True):
            if column is None:
                continue
            name, attribute, codec = column
            try:
                if text is None:
                    values[attribute] = self._of_empty(codec)
                elif self._sheet is not None:
                    values[attribute] = _from_sheet(self._sheet, codec, text)
                else:
                    values[attribute] = codec.parse(text)
            except ValueError as error:
                findings.append(Finding(name, str(error)))
        return table.row(line.number, line, len(line.text), values, findings)

    def _of_empty(self, codec: Codec) -> str | None:
        # Spreadsheets drop the quotes of an empty text.
        is_text = codec.kind == "text" and not codec.column.nullable and not codec.column.primary_key
        return "" if self._sheet is not None and is_text else None

    def cell(self, source: Line, column: str) -> str | None:
        """The text that the line has in the column."""
        if column in self.names and len(source.cells) == len(self.names):
            return source.cells[self.names.index(column)]
        return None

    def errors_file(self, rows: Sequence[BadRow]) -> str:
        """A CSV file of these rows, with what is wrong with them in columns that an import leaves alone."""
        defused = self._sheet is not None

        def text(line: int | str, columns: str, reasons: str, cells: str) -> str:
            notes = quoted([columns, reasons], defused=defused)
            return self._delimiter.join([str(line), *notes, cells]) + "\r\n"

        parts = [BYTE_ORDER_MARK if defused else "", text("#line", "#column", "#reason", self._header)]
        for row in rows:
            columns = ", ".join(finding.column for finding in row.findings if finding.column is not None)
            parts.append(text(row.line, columns, "; ".join(map(str, row.findings)), row.source.text))
        return "".join(parts)


def _from_sheet(sheet: Sheet, codec: Codec, text: str) -> Any:
    if codec.is_text and text.startswith("'") and text[1:].startswith(FORMULA_STARTS):
        text = text[1:]
    return sheet.parse(codec, text)
