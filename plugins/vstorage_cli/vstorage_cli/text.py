"""JSON-able data as text for people: reports of imports, details of a refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def lines_of(data: Row) -> Iterator[str]:
    """The entries one below the other; lists of records and records of records as tables."""
    width = max((len(_title(name)) for name, value in data.items() if not _is_block(value)), default=0)
    for name, value in data.items():
        if _is_block(value):
            yield from _block(_title(name), value)
        else:
            yield f"{_title(name):<{width}}  {cell(value)}"


def table(rows: Sequence[Row]) -> Iterator[str]:
    """The rows below a header, numbers on the right; what fits in no cell stands below. Nothing without rows."""
    if not rows:
        return
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [name for name in names if not any(_is_block(row.get(name)) for row in rows)]
    texts = [[_title(name) for name in columns], *([cell(row.get(name)) for name in columns] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    numeric = [all(_is_number(row.get(name)) for row in rows) for name in columns]
    for line in texts if columns else ():
        cells = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        )
        yield "  ".join(cells).rstrip()
    for row, line in zip(rows, texts[1:], strict=True):
        for name, value in row.items():
            if name not in columns and value:
                yield from _block(" ".join([*line[:1], _title(name)]), value)


def cell(value: Any) -> str:
    """One value on one line; what a terminal would take for a command is escaped."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ("", [], {}):
        return "-"
    if isinstance(value, list):
        return ", ".join(map(cell, value))
    text = json.dumps(value) if isinstance(value, Mapping) else str(value)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _block(title: str, value: Any) -> Iterator[str]:
    yield f"{title}:"
    yield from (f"  {line}" for line in _block_lines(value))


def _block_lines(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from map(cell, value.splitlines())
    elif isinstance(value, list):
        yield from table([item if isinstance(item, Mapping) else {"": item} for item in value])
    elif all(isinstance(row, Mapping) for row in value.values()):
        yield from table([{"": name, **row} for name, row in value.items()])
    else:
        yield from lines_of(value)


def _is_block(value: Any) -> bool:
    """Whether it takes more than one line."""
    if isinstance(value, list):
        return any(isinstance(item, Mapping | list) for item in value)
    return (isinstance(value, Mapping) and bool(value)) or (isinstance(value, str) and "\n" in value)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _title(name: str) -> str:
    return cell(name.replace("_", " ")) if name else ""
