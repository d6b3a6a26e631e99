"""The lines of a CSV file, quoted and read after PostgreSQL's rule: NULL is empty, and '' is a pair of quotes.

The spreadsheet dialect also begins with a byte order mark, ends its lines as Windows does, and puts an apostrophe
before text that a spreadsheet would run as a formula.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NamedTuple

from vstorage_core import ImportRefused

BYTE_ORDER_MARK = "\ufeff"
# What a spreadsheet takes for the start of a formula, and the apostrophe itself so that it can be taken off again.
# https://owasp.org/www-community/attacks/CSV_Injection
FORMULA_STARTS = tuple("=+-@\t\r\n\0＝＋－＠'")  # noqa: RUF001 (full-width forms are the point)


def quoted(texts: Iterable[str], *, defused: bool) -> list[str]:
    """The texts as cells in quotes; `defused` also keeps a spreadsheet from running them as formulas."""
    if defused:
        texts = (f"'{text}" if text.startswith(FORMULA_STARTS) else text for text in texts)
    return ['"' + text.replace('"', '""') + '"' for text in texts]


class Line(NamedTuple):
    """One row of a file as text; of several physical lines where a cell contains line breaks.

    Attributes:
        number: Of its first physical line, counted from 1.
        text: Without the end of the line.
        cells: None where a cell is empty and not in quotes.
        problem: Why there are no cells, or an empty text.
    """

    number: int
    text: str
    cells: list[str | None]
    problem: str


class LineReader:
    """Reads the lines of a file, never more than one at a time.

    Args:
        stream: At the start of the file.
        file: Its name, for messages.
        max_line_bytes: No row is longer.
    """

    def __init__(self, stream: BinaryIO, file: str, max_line_bytes: int) -> None:
        self._stream = stream
        self._file = file
        self._max_line_bytes = max_line_bytes
        self._number = 0

    def header(self) -> str:
        """The first line.

        Raises:
            ImportRefused: The file is empty or no text in UTF-8.
        """
        data = self._read()
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ImportRefused(f"{self._file} is UTF-16; save it as 'CSV UTF-8'")
        if not data.strip():
            raise ImportRefused(f"{self._file} begins with an empty line; the first line names the columns")
        return self._text(data.removeprefix(codecs.BOM_UTF8), self._number)

    def lines(self, delimiter: str) -> Iterator[Line]:
        """The lines after the header; empty ones are left out.

        Raises:
            ImportRefused: A line is no text in UTF-8, too long, or has a quote that is never closed.
        """
        while data := self._read():
            number = self._number
            text = self._text(data, number)
            if not text.strip(delimiter):
                continue
            try:
                cells = split_cells(text, delimiter)
            except UnclosedQuote:
                text = self._continued(data, number)
                try:
                    cells = split_cells(text, delimiter)
                except ValueError as error:
                    yield Line(number, text, [], str(error))
                    continue
            except ValueError as error:
                yield Line(number, text, [], str(error))
                continue
            yield Line(number, text, cells, "")

    def _read(self) -> bytes:
        data = self._stream.readline(self._max_line_bytes)
        self._number += 1
        if len(data) >= self._max_line_bytes:
            raise self._too_long(self._number)
        return data

    def _continued(self, data: bytes, number: int) -> str:
        """`data` with the lines after it, up to the one where its quote is closed."""
        parts, length, quotes = [data], len(data), data.count(b'"')
        while quotes % 2:
            more = self._read()
            if not more:
                raise ImportRefused(f"{self._file} line {number}: a quote is opened and never closed")
            parts.append(more)
            length += len(more)
            quotes += more.count(b'"')
            if length > self._max_line_bytes:
                raise self._too_long(number)
        return self._text(b"".join(parts), number)

    def _too_long(self, number: int) -> ImportRefused:
        return ImportRefused(
            f"{self._file} line {number}: the row is longer than {self._max_line_bytes:,} bytes, or a quote is never"
            " closed; the setting csv.max_row_bytes allows more"
        )

    def _text(self, data: bytes, number: int) -> str:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            line = number + data.count(b"\n", 0, error.start)
            raise ImportRefused(
                f"{self._file} line {line}: the byte 0x{data[error.start]:02X} is not UTF-8; save it as 'CSV UTF-8'"
            ) from None
        return text.removesuffix("\n").removesuffix("\r")


class UnclosedQuote(ValueError):
    """The last cell of the text goes on in the next line."""


def split_cells(text: str, delimiter: str) -> list[str | None]:
    """The cells of a line; None where one is empty and not in quotes.

    Raises:
        UnclosedQuote: The last cell goes on in the next line.
        ValueError: The quotes make no sense, with a sentence that says why.
    """
    if '"' not in text:
        return [cell or None for cell in text.split(delimiter)]
    cells: list[str | None] = []
    start, length = 0, len(text)
    while True:
        if text.startswith('"', start):
            end = text.find('"', start + 1)
            while end >= 0 and text.startswith('"', end + 1):
                end = text.find('"', end + 2)
            if end < 0:
                raise UnclosedQuote("a quote is opened and never closed")
            cells.append(text[start + 1 : end].replace('""', '"'))
            end += 1
            if end < length and text[end] != delimiter:
                raise ValueError(f"cell {len(cells)} goes on after its closing quote")
        else:
            end = text.find(delimiter, start)
            end = length if end < 0 else end
            cell = text[start:end]
            if '"' in cell:
                raise ValueError(f"cell {len(cells) + 1} contains a quote but does not begin with one")
            cells.append(cell or None)
        if end == length:
            return cells
        start = end + 1
