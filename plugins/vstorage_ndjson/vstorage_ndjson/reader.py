"""Reads lines of JSON as rows of a table."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from vstorage_core import ImportRefused
from vstorage_core.records import Values
from vstorage_transfer import BadRow, Codec, FileReader, Finding, ImportTable, Row, UploadedFile, is_comment

Record = Mapping[str, Any]


class NdjsonReader(FileReader):
    """Reads one file, never more than a line at a time.

    Its columns are those of the first record; later ones may lack some.

    Raises:
        ImportRefused: The first line is no record, or no text in UTF-8.
    """

    def __init__(self, file: UploadedFile) -> None:
        self._file = file
        with file.open() as stream:
            first = next(self._lines(stream), None)
        self.names: Sequence[str] | None = None
        if first is not None:
            number, text = first
            record = _decoded(text)
            if isinstance(record, str):
                raise ImportRefused(f"{file.name} line {number}: {record}")
            self.names = list(record)

    def rows(self, table: ImportTable) -> Iterator[Row | BadRow]:
        """The rows in the order of the file."""
        with self._file.open() as stream:
            for number, text in self._lines(stream):
                record = _decoded(text)
                if isinstance(record, str):
                    yield BadRow(number, {"#text": text}, len(text), [Finding(None, record)])
                else:
                    yield _row(table, number, len(text), record)

    def cell(self, source: Record, column: str) -> str | None:
        """The JSON of the record in the column; text as it is."""
        value = source.get(column)
        return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    def errors_file(self, rows: Sequence[BadRow]) -> str:
        """The records of these rows, with what is wrong with them in columns that an import leaves alone."""
        text = "".join(
            json.dumps(
                {
                    **row.source,
                    "#line": row.line,
                    "#column": ", ".join(finding.column for finding in row.findings if finding.column is not None),
                    "#reason": "; ".join(map(str, row.findings)),
                },
                ensure_ascii=False,
            )
            + "\n"
            for row in rows
        )
        # Half a character is spelt as JSON does.
        return text.encode(errors="backslashreplace").decode()

    def _lines(self, stream: BinaryIO) -> Iterator[tuple[int, str]]:
        """Number and text of the lines that are not empty."""
        number, limit = 0, self._file.settings.max_row_bytes
        while data := stream.readline(limit):
            number += 1
            if len(data) >= limit:
                raise ImportRefused(
                    f"{self._file.name} line {number}: the row is longer than {limit:,} bytes; the setting"
                    " ndjson.max_row_bytes allows more"
                )
            if number == 1:
                if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                    raise ImportRefused(f"{self._file.name} is UTF-16; write it in UTF-8")
                data = data.removeprefix(codecs.BOM_UTF8)
            try:
                text = data.decode().strip()
            except UnicodeDecodeError as error:
                raise ImportRefused(
                    f"{self._file.name} line {number}: the byte 0x{data[error.start]:02X} is not UTF-8"
                ) from None
            if text:
                yield number, text


def _decoded(text: str) -> Record | str:
    """The record of a line, or a sentence about why there is none."""
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"is not JSON: {error}"
    return record if isinstance(record, dict) else 'is no JSON object such as {"id": 1}'


def _row(table: ImportTable, number: int, size: int, record: Record) -> Row | BadRow:
    values: Values = {}
    findings = []
    for name, value in record.items():
        column = table.columns.get(name)
        if column is None:
            if not is_comment(name):
                findings.append(Finding(name, "is no column of the table"))
            continue
        attribute, codec = column
        try:
            values[attribute] = None if value is None else _value(codec, value)
        except ValueError as error:
            findings.append(Finding(name, str(error)))
    return table.row(number, record, size, values, findings)


def _value(codec: Codec, value: Any) -> Any:
    return value if codec.kind == "json" else codec.accept(value)
