"""What was measured, as a table for people and as a chart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

from benchmarks.operations import Operation
from benchmarks.rounds import Rounds, median, ratio

_BAR, _LEFT, _WIDTH = 16, 330, 560


def operation_row(operation: Operation, rounds: Rounds) -> dict[str, Any]:
    """One row of the table, targets checked."""
    measure = operation.measure
    times_raw = ratio(rounds, "vstorage", "raw", measure)
    faster = ratio(rounds, "original", "vstorage", measure)
    growth = median(rounds["vstorage"], "growth_mb") if operation.max_growth_mb else None
    checks = [
        times_raw <= operation.at_most if operation.at_most and times_raw else True,
        faster >= operation.at_least if operation.at_least and faster else True,
        growth <= operation.max_growth_mb if operation.max_growth_mb and growth is not None else True,
    ]
    return {
        "name": operation.name,
        "title": operation.title,
        "microseconds": {name: median(runs, measure) for name, runs in rounds.items()},
        "times_raw": times_raw,
        "at_most": operation.at_most,
        "original_times_raw": ratio(rounds, "original", "raw", measure),
        "faster_than_original": faster,
        "at_least": operation.at_least,
        "faster_than_sqlmodel": ratio(rounds, "sqlmodel", "vstorage", measure),
        "growth_mb": {name: median(runs, "growth_mb") for name, runs in rounds.items()},
        "max_growth_mb": operation.max_growth_mb,
        "ok": all(checks),
        "rounds": rounds,
    }


def operation_table(rows: Sequence[dict[str, Any]]) -> str:
    """The operations in one process."""
    lines = [
        [
            row["title"],
            duration(row["microseconds"].get("raw")),
            duration(row["microseconds"]["vstorage"]),
            against(row["times_raw"], row["at_most"], "≤"),
            against(row["faster_than_original"], row["at_least"], "≥"),
            number(row["faster_than_sqlmodel"]),
            against(row["growth_mb"]["vstorage"], row["max_growth_mb"], "≤") if row["max_growth_mb"] else "",
            "ok" if row["ok"] else "MISSED",
        ]
        for row in rows
    ]
    head = ["operation", "raw", "vstorage", "x raw", "x faster than original", "x faster than SQLModel", "grows MB", ""]
    return table(head, lines)


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown that can be read as it is."""
    widths = [max(len(line[column]) for line in [head, *lines]) for column in range(len(head))]

    def row(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = "|".join(f"-{'-' * width}{'-' if column == 0 else ':'}" for column, width in enumerate(widths))
    return "\n".join([row(head), f"|{rule}|", *map(row, lines)])


def number(value: float | None) -> str:
    """Three digits or so."""
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def duration(microseconds: float | None) -> str:
    """In the unit that fits."""
    if microseconds is None:
        return "-"
    for unit, size in (("s", 1e6), ("ms", 1e3)):
        if microseconds >= size:
            return f"{number(microseconds / size)} {unit}"
    return f"{number(microseconds)} µs"


def against(value: float | None, target: float | None, sign: str) -> str:
    """A figure with its target."""
    return f"{number(value)} ({sign} {target:g})" if target and value is not None else number(value)


def chart(rows: Sequence[dict[str, Any]]) -> str:
    """Times raw sqlite3, of vstorage and of the original, on a logarithmic scale, as SVG."""
    shown = [row for row in rows if row["times_raw"]]
    largest = max((row["original_times_raw"] or row["times_raw"] for row in shown), default=10)
    decades = math.ceil(math.log10(max(largest, 10)))
    height = 50 + len(shown) * 3 * _BAR

    def x(value: float) -> float:
        # From a tenth of raw on.
        return _LEFT + _WIDTH * (math.log10(max(value, 0.1)) + 1) / (decades + 1)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 60}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="16">Cost against raw sqlite3 (1x), shorter is better: '
        '<tspan fill="#1769aa">vstorage</tspan>, <tspan fill="#999">the original</tspan></text>',
    ]
    for power in range(-1, decades + 1):
        place = x(10.0**power)
        parts.append(f'<path d="M{place:.1f} 40V{height}" stroke="{"#888" if power == 0 else "#ddd"}"/>')
        parts.append(f'<text x="{place:.1f}" y="34" text-anchor="middle">{10.0**power:g}x</text>')
    for position, row in enumerate(shown):
        top = 46 + position * 3 * _BAR
        parts.append(f'<text x="{_LEFT - 8}" y="{top + 20}" text-anchor="end">{escape(row["title"])}</text>')
        bars = (("times_raw", "#1769aa"), ("original_times_raw", "#bbb"))
        for line, (key, color) in enumerate(bars):
            if row[key]:
                y = top + line * _BAR
                end = x(row[key])
                parts.append(
                    f'<rect x="{_LEFT}" y="{y}" width="{end - _LEFT:.1f}" height="{_BAR - 2}" fill="{color}"/>'
                    f'<text x="{end + 4:.1f}" y="{y + 12}">{number(row[key])}x</text>'
                )
    return "\n".join([*parts, "</svg>"])
