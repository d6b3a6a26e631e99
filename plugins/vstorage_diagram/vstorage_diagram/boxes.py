"""A table as a box: which text stands in which row, and how large the box must be. All lengths are in pixels."""

from __future__ import annotations

import math
import unicodedata
from dataclasses import dataclass

from vstorage_diagram.schema import Column, Table

HEADER_HEIGHT = 32
ROW_HEIGHT = 24
NAME_SIZE = 13
TYPE_SIZE = 12
TITLE_SIZE = 14
MARK_WIDTH = 22
MARK_GAP = 3
PADDING = 10
SOFT_DELETE_LABEL = "soft delete"
SOFT_DELETE_WIDTH = 68

_COLUMN_GAP = 22
_MINIMUM_WIDTH = 170
_LONGEST_NAME = 340
_LONGEST_TYPE = 200

# Advance widths in 1/100 em, rounded up: the larger one of DejaVu Sans and Arial, the widest fonts of the picture.
_WIDTHS = {
    character: width
    for width, characters in {
        30: "'Iijl",
        35: " ,./:;\\|",
        40: "()-[]ft",
        45: "!r",
        50: '"*J`',
        55: "csz",
        60: "?L_kvxy",
        65: "$0123456789FTabdeghnopqu{}",
        70: "ABEKPSVXYZ",
        75: "CNRU",
        80: "&DGHOQ",
        85: "#+<=>^w~",
        90: "M",
        100: "%Wm",
        105: "@",
    }.items()
    for character in characters
}
_BOLD = 1.2


def text_width(text: str, size: int, *, bold: bool = False) -> int:
    """No fewer pixels than `text` takes at that font size."""
    return math.ceil(sum(map(_character_width, text)) * size * (_BOLD if bold else 1) / 100)


def _character_width(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    base = unicodedata.normalize("NFD", character)[0]
    if base in _WIDTHS:
        return _WIDTHS[base]
    return 140 if unicodedata.east_asian_width(base) in "WF" else 110


def shortened(text: str, size: int, room: int, *, bold: bool = False) -> str:
    """As much of `text` as `room` pixels hold, with an ellipsis where something is missing."""
    if text_width(text, size, bold=bold) <= room:
        return text
    fitting = 0
    while text_width(text[: fitting + 1] + "…", size, bold=bold) <= room:
        fitting += 1
    return text[:fitting].rstrip() + "…"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One column of a table; `y` is its middle, from the top of the box."""

    column: Column
    name: str
    type: str
    y: int


@dataclass(frozen=True, kw_only=True)
class Box:
    """A table ready to be drawn; `names_x` is where the columns' names begin."""

    table: Table
    title: str
    rows: tuple[Row, ...]
    width: int
    height: int
    names_x: int

    def row_y(self, column: str) -> int:
        """The middle of that column's row, from the top of the box."""
        return next(row.y for row in self.rows if row.column.name == column)


def box_of(table: Table) -> Box:
    """The box that holds all texts of the table; only names longer than about fifty letters are shortened."""
    title = shortened(table.name, TITLE_SIZE, _LONGEST_NAME, bold=True)
    title_width = text_width(title, TITLE_SIZE, bold=True) + 2 * PADDING
    if table.has_soft_delete:
        title_width += PADDING + SOFT_DELETE_WIDTH
    rows = tuple(
        Row(
            column=column,
            name=shortened(column.name, NAME_SIZE, _LONGEST_NAME, bold=True),
            type=shortened(column.type, TYPE_SIZE, _LONGEST_TYPE) + ("?" if column.nullable else ""),
            y=HEADER_HEIGHT + ROW_HEIGHT * index + ROW_HEIGHT // 2,
        )
        for index, column in enumerate(table.columns)
    )
    marks = max((len(column.marks) for column in table.columns), default=0)
    names_x = PADDING + marks * (MARK_WIDTH + MARK_GAP) + (5 if marks else 0)
    names_width = max((text_width(row.name, NAME_SIZE, bold="PK" in row.column.marks) for row in rows), default=0)
    types_width = max((text_width(row.type, TYPE_SIZE) for row in rows), default=0)
    return Box(
        table=table,
        title=title,
        rows=rows,
        width=max(title_width, names_x + names_width + _COLUMN_GAP + types_width + PADDING, _MINIMUM_WIDTH),
        height=HEADER_HEIGHT + ROW_HEIGHT * len(rows) + 4,
        names_x=names_x,
    )
