"""Rows of a file's table by ranges of SQLite's own row numbers: few words for many rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

# Row numbers from … to, in ascending order.
Ranges = list[tuple[int, int]]

# Chooses the rows of one range.
IN_RANGE = "WHERE rowid BETWEEN ? AND ?"


def as_ranges(numbers: Iterable[int]) -> Ranges:
    """Ascending numbers as ranges."""
    ranges: Ranges = []
    for number in numbers:
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1] = (ranges[-1][0], number)
        else:
            ranges.append((number, number))
    return ranges


def count(ranges: Ranges) -> int:
    """How many numbers there are in all of them."""
    return sum(last - first + 1 for first, last in ranges)


def parts(ranges: Ranges | None) -> Iterator[tuple[Any, ...]]:
    """What to hand to `Upload.rows` after the columns, for each range; None stands for all rows."""
    return iter([()]) if ranges is None else ((IN_RANGE, *part) for part in ranges)
