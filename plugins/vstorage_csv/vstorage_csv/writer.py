"""Writes rows as the lines of a CSV file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, BinaryIO

from sqlalchemy import Column
from sqlalchemy import Dialect as SqlDialect

from vstorage_csv.lines import BYTE_ORDER_MARK, quoted
from vstorage_csv.options import CsvTableOptions
from vstorage_csv.sheet import Sheet
from vstorage_transfer import Codec, TableWriter, codec_of, with_nulls

_PLAIN = re.compile(r"[0-9A-Za-z:., +-]*")


class CsvWriter(TableWriter):
    """Writes one file.

    Args:
        stream: At the start of the file.
        columns: Of the table.
        sql_dialect: Of the database.
        options: Of the export.
    """

    def __init__(
        self, stream: BinaryIO, columns: Sequence[Column[Any]], sql_dialect: SqlDialect, options: CsvTableOptions
    ) -> None:
        self._stream = stream
        self._codecs = [codec_of(column, sql_dialect) for column in columns]
        self.expressions = [codec.expression() for codec in self._codecs]
        self.kinds = [codec.kind for codec in self._codecs]
        self._for_people = options.dialect == "spreadsheet"
        self._sheet = Sheet(decimal_comma=options.decimal_comma)
        self._delimiter = options.delimiter
        self._end = "\r\n" if self._for_people else "\n"
        names = self._delimiter.join(quoted((column.name for column in columns), defused=self._for_people))
        stream.write(f"{BYTE_ORDER_MARK if self._for_people else ''}{names}{self._end}".encode())

    def write(self, rows: Sequence[Sequence[Any]]) -> int:
        """Write rows, of which there is at least one; returns how many bytes they are."""
        # Column by column, so that the loop over the rows runs in C.
        columns = [
            with_nulls(partial(self._cells, codec), values, "")
            for codec, values in zip(self._codecs, zip(*rows, strict=True), strict=True)
        ]
        lines = map(self._delimiter.join, zip(*columns, strict=True))
        data = f"{self._end.join(lines)}{self._end}".encode()
        self._stream.write(data)
        return len(data)

    def _cells(self, codec: Codec, values: Sequence[Any]) -> Sequence[str]:
        try:
            texts = self._sheet.texts(codec, values) if self._for_people else codec.texts(values)
        except (ValueError, TypeError, ArithmeticError):
            texts = list(map(str, values))
        together = "".join(texts)
        # A database of the original may hold any text where the type of the column allows none.
        if codec.is_text or not _PLAIN.fullmatch(together):
            return quoted(texts, defused=self._for_people)
        return quoted(texts, defused=False) if self._delimiter in together else texts
