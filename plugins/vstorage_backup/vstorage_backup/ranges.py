"""Rows of a table by ranges of their keys: few words for many rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import Table

from vstorage_backup.export import quoted

# Keys from … to, in ascending order.
Ranges = list[tuple[int, int]]


def as_ranges(keys: Iterable[int]) -> Ranges:
    """Ascending keys as ranges."""
    ranges: Ranges = []
    for key in keys:
        if ranges and ranges[-1][1] == key - 1:
            ranges[-1] = (ranges[-1][0], key)
        else:
            ranges.append((key, key))
    return ranges


def count(ranges: Ranges) -> int:
    """How many keys there are in all of them."""
    return sum(last - first + 1 for first, last in ranges)


def key_of(table: Table) -> str:
    """The name of the one column that is the table's key, as an SQL identifier."""
    [key] = table.primary_key.columns
    return quoted(key.name)


def condition(table: Table) -> str:
    """SQL that chooses the rows of one range; it has two parameters."""
    return f"WHERE {key_of(table)} BETWEEN ? AND ?"


def parts(table: Table, ranges: Ranges | None) -> Iterator[tuple[Any, ...]]:
    """What to hand to `Upload.rows` after the columns, for each range; None stands for all rows."""
    return iter([()]) if ranges is None else ((condition(table), *part) for part in ranges)
