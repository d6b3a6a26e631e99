"""The layout as SVG: one file without scripts or outside references, in light and dark colours, fit to be printed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from urllib.parse import quote
from xml.sax.saxutils import escape

from vstorage_diagram.boxes import (
    HEADER_HEIGHT,
    MARK_GAP,
    MARK_WIDTH,
    NAME_SIZE,
    PADDING,
    ROW_HEIGHT,
    SOFT_DELETE_LABEL,
    SOFT_DELETE_WIDTH,
    TITLE_SIZE,
    TYPE_SIZE,
    Row,
)
from vstorage_diagram.layout import Layout, Line, PlacedBox, Point
from vstorage_diagram.schema import ChildEnd, Mark, ParentEnd, Relation, Schema

MARGIN = 28
CORNER = 7
LEGEND_GAP = 16
_LEGEND_LINE = 26
_LEGEND_WIDTH = 500
_MARK_MEANINGS: dict[Mark, str] = {"PK": "primary key", "FK": "refers to another table", "UQ": "unique"}
_NO_TABLES = "They appear here once bootstrap() has created them."

_STYLE = f"""
.page{{fill:#fff}}
text{{font:{NAME_SIZE}px "Segoe UI",Roboto,"Helvetica Neue",Arial,"DejaVu Sans",sans-serif;fill:#1f2933}}
.frame{{fill:#fff}}
.head{{fill:#33506e}}
.outline{{fill:none;stroke:#9fb0c2}}
.rule{{stroke:#e9eef3;fill:none}}
.title{{font-size:{TITLE_SIZE}px;font-weight:600;fill:#fff}}
.pill{{fill:#fff;fill-opacity:.16}}
.pill-text{{font-size:10px;fill:#dce7f2}}
.key{{font-weight:600}}
.type{{font-size:{TYPE_SIZE}px;fill:#66788a}}
.mark{{font-size:10px;font-weight:600}}
.PK{{fill:#fbe8c0}}.PK-text{{fill:#7a5200}}
.FK{{fill:#d6e8fb}}.FK-text{{fill:#1c5185}}
.UQ{{fill:#e7defa}}.UQ-text{{fill:#55359b}}
.line,.end{{fill:none;stroke:#71859a;stroke-width:1.5}}
.end{{fill:#fff}}
.relation{{fill:none;stroke:#e5732f;stroke-opacity:0;stroke-width:9;stroke-linejoin:round}}
.relation:hover{{stroke-opacity:.45}}
.note{{font-size:{TYPE_SIZE}px;fill:#66788a}}
@media screen and (prefers-color-scheme:dark){{
.page{{fill:#12181f}}
text{{fill:#e3e9ef}}
.frame{{fill:#1b242e}}
.head{{fill:#2d4a68}}
.outline{{stroke:#4c6076}}
.rule{{stroke:#27323e}}
.type,.note{{fill:#93a4b5}}
.PK{{fill:#4d3a10}}.PK-text{{fill:#f5d48a}}
.FK{{fill:#17395c}}.FK-text{{fill:#a9d0f5}}
.UQ{{fill:#392a63}}.UQ-text{{fill:#cdbcf7}}
.line,.end{{stroke:#8196ab}}
.end{{fill:#12181f}}
}}
"""


def svg(schema: Schema, layout: Layout) -> Iterator[str]:
    """The picture, in pieces of text."""
    if not schema.tables:
        yield from _empty()
        return
    width = max(layout.width, _LEGEND_WIDTH) + 2 * MARGIN
    legend_height = _LEGEND_LINE * (2 if schema.relations else 1)
    height = layout.height + LEGEND_GAP + legend_height + 2 * MARGIN
    yield from _opening(width, height, _title(schema), _description(schema))
    layout = layout.moved(MARGIN, MARGIN)
    yield from _lines(layout.lines)
    for placed in layout.boxes:
        yield from _table(placed)
    yield from _legend(MARGIN, layout.height + LEGEND_GAP + _LEGEND_LINE // 2, relations=bool(schema.relations))
    yield "</svg>\n"


def _empty() -> Iterator[str]:
    yield from _opening(460, 150, "Database schema: no tables", _NO_TABLES)
    yield '<rect class="outline" x="20.5" y="20.5" width="419" height="109" rx="8" stroke-dasharray="5 4"/>\n'
    yield '<text class="key" x="230" y="70" text-anchor="middle">No tables to draw</text>\n'
    yield f'<text class="note" x="230" y="94" text-anchor="middle">{_NO_TABLES}</text>\n'
    yield "</svg>\n"


def _opening(width: int, height: int, title: str, description: str) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        f' role="img" aria-labelledby="schema-title schema-description">\n'
        f'<title id="schema-title">{xml_text(title)}</title>\n'
        f'<desc id="schema-description">{xml_text(description)}</desc>\n'
        f"<style>{_STYLE}</style>\n"
        f'<rect class="page" width="{width}" height="{height}"/>\n'
    )


def _title(schema: Schema) -> str:
    return f"Database schema: {_count(schema.tables, 'table')}, {_count(schema.relations, 'relation')}"


def _description(schema: Schema) -> str:
    sentences = [f"Tables: {', '.join(table.name for table in schema.tables)}."]
    sentences += [f"{_sentence(relation)}." for relation in schema.relations]
    return "\n".join(sentences)


def _count(things: Sequence[object], name: str) -> str:
    return f"{len(things)} {name}" if len(things) == 1 else f"{len(things)} {name}s"


def _sentence(relation: Relation) -> str:
    return f"{relation}: {relation.child_end} to {relation.parent_end}"


def _table(placed: PlacedBox) -> Iterator[str]:
    box, table = placed.box, placed.box.table
    width, height = box.width, box.height
    tooltip = "\n".join(filter(None, [table.name, table.summary]))
    yield (
        f'<g class="table" id="{_identifier(table.name)}" transform="translate({placed.x} {placed.y})">\n'
        f"<title>{xml_text(tooltip)}</title>\n"
        f'<rect class="frame" width="{width}" height="{height}" rx="6"/>\n'
        f'<path class="head" d="M0 {HEADER_HEIGHT}V6a6 6 0 0 1 6-6H{width - 6}a6 6 0 0 1 6 6V{HEADER_HEIGHT}z"/>\n'
        f'<text class="title" x="{PADDING}" y="{HEADER_HEIGHT // 2 + 5}">{xml_text(box.title)}</text>\n'
    )
    if table.has_soft_delete:
        x = width - PADDING - SOFT_DELETE_WIDTH
        yield (
            "<g><title>Records are marked deleted and kept</title>"
            f'<rect class="pill" x="{x}" y="8" width="{SOFT_DELETE_WIDTH}" height="16" rx="8"/>'
            f'<text class="pill-text" x="{x + SOFT_DELETE_WIDTH // 2}" y="19.5" text-anchor="middle">'
            f"{SOFT_DELETE_LABEL}</text></g>\n"
        )
    rules = "".join(f"M1 {row.y - ROW_HEIGHT // 2}.5H{width - 1}" for row in box.rows[1:])
    if rules:
        yield f'<path class="rule" d="{rules}"/>\n'
    for row in box.rows:
        yield from _row(row, width, box.names_x)
    yield f'<rect class="outline" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="6"/>\n</g>\n'


def _row(row: Row, width: int, names_x: int) -> Iterator[str]:
    column = row.column
    details = list(column.details)
    if row.name != column.name or row.type.rstrip("?") != column.type:
        details.insert(0, f"{column.name}: {column.type}")
    if details:
        yield f"<g><title>{xml_text(chr(10).join(details))}</title>"
        # So that the whole row answers to the pointer.
        top = row.y - ROW_HEIGHT // 2 + 1
        yield f'<rect x="1" y="{top}" width="{width - 2}" height="{ROW_HEIGHT - 1}" fill-opacity="0"/>'
    for index, mark in enumerate(column.marks):
        yield from _mark(mark, PADDING + index * (MARK_WIDTH + MARK_GAP), row.y)
    key = ' class="key"' if "PK" in column.marks else ""
    yield f'<text{key} x="{names_x}" y="{row.y + 4.5}">{xml_text(row.name)}</text>'
    yield f'<text class="type" x="{width - PADDING}" y="{row.y + 4.5}" text-anchor="end">{xml_text(row.type)}</text>'
    yield "</g>\n" if details else "\n"


def _mark(mark: Mark, x: int, y: int) -> Iterator[str]:
    yield f'<rect class="{mark}" x="{x}" y="{y - 7}" width="{MARK_WIDTH}" height="14" rx="3"/>'
    yield f'<text class="mark {mark}-text" x="{x + MARK_WIDTH // 2}" y="{y + 3.5}" text-anchor="middle">{mark}</text>'


def _lines(lines: Sequence[Line]) -> Iterator[str]:
    """What relations share is drawn once; an invisible path for each shows its whole way under the pointer."""
    straight: dict[tuple[bool, float], list[tuple[float, float]]] = {}
    corners: dict[str, None] = {}
    ends: dict[str, None] = {}
    for line in lines:
        ends.update(dict.fromkeys(_ends(line)))
        for start, end, curve in _rounded(line.points):
            corners[curve] = None
            upright = start[0] == end[0]
            along = sorted((start[upright], end[upright]))
            straight.setdefault((upright, start[not upright]), []).append((along[0], along[1]))
    pieces = [
        f"M{at:g} {low:g}V{high:g}" if upright else f"M{low:g} {at:g}H{high:g}"
        for (upright, at), stretches in straight.items()
        for low, high in _merged(stretches)
    ]
    if pieces:
        yield f'<path class="line" d="{"".join([*pieces, *corners])}"/>\n'
    yield from (f"{end}\n" for end in ends)
    for line in lines:
        path = "".join(f"L{x:g} {y:g}" for x, y in line.points)
        yield f'<path class="relation" d="M{path[1:]}"><title>{xml_text(_sentence(line.relation))}</title></path>\n'


def _merged(stretches: list[tuple[float, float]]) -> Iterator[tuple[float, float]]:
    """The same stretches of one straight line, those that overlap made one."""
    stretches.sort()
    low, high = stretches[0]
    for start, end in stretches[1:]:
        if start > high:
            yield low, high
            low, high = start, end
        high = max(high, end)
    yield low, high


def _rounded(points: Sequence[Point]) -> Iterator[tuple[tuple[float, float], tuple[float, float], str]]:
    """The straight parts of the line, each with the curve that follows it."""
    bends = [points[0]]
    for point, following in pairwise(points[1:]):
        # What goes straight on is no corner.
        if len({bends[-1][0], point[0], following[0]}) > 1 and len({bends[-1][1], point[1], following[1]}) > 1:
            bends.append(point)
    bends.append(points[-1])
    start: tuple[float, float] = bends[0]
    for before, corner, after in zip(bends, bends[1:], bends[2:], strict=False):
        radius = min(CORNER, _distance(before, corner) / 2, _distance(corner, after) / 2)
        (x1, y1), (x2, y2) = _towards(corner, before, radius), _towards(corner, after, radius)
        yield start, (x1, y1), f"M{x1:g} {y1:g}Q{corner[0]} {corner[1]} {x2:g} {y2:g}"
        start = x2, y2
    yield start, bends[-1], ""


def _distance(one: Point, other: Point) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])


def _towards(start: Point, goal: Point, length: float) -> tuple[float, float]:
    share = length / _distance(start, goal)
    return start[0] + (goal[0] - start[0]) * share, start[1] + (goal[1] - start[1]) * share


def _ends(line: Line) -> tuple[str, str]:
    start, end = line.points[0], line.points[-1]
    return (
        _end(line.relation.child_end, start, 1 if line.points[1][0] > start[0] else -1),
        _end(line.relation.parent_end, end, 1 if line.points[-2][0] > end[0] else -1),
    )


def _end(meaning: ParentEnd | ChildEnd, point: Point, direction: int) -> str:
    """The crow's-foot symbol at a table; `direction` is 1 where the line leaves it to the right, else -1."""
    x, y = point

    def bar(distance: int) -> str:
        return f"M{x + direction * distance} {y - 4.5}v9"

    def ring(distance: int) -> str:
        return f'<circle class="end" cx="{x + direction * distance}" cy="{y}" r="3.5"/>'

    if meaning == "exactly one":
        return f'<path class="line" d="{bar(8)}{bar(13)}"/>'
    if meaning == "zero or one":
        return f'<path class="line" d="{bar(8)}"/>{ring(14)}'
    return f'<path class="line" d="M{x} {y - 6}L{x + direction * 12} {y}L{x} {y + 6}"/>{ring(15)}'


def _legend(x: int, y: int, *, relations: bool) -> Iterator[str]:
    yield '<g class="legend">\n'
    for (mark, meaning), left in zip(_MARK_MEANINGS.items(), (0, 124, 302), strict=True):
        yield from _mark(mark, x + left, y)
        yield f'<text class="note" x="{x + left + MARK_WIDTH + 7}" y="{y + 4}">{meaning}</text>\n'
    yield f'<text class="note" x="{x + 392}" y="{y + 4}">? may be empty</text>\n'
    meanings: tuple[ParentEnd | ChildEnd, ...] = ("exactly one", "zero or one", "zero or many")
    for left, end in zip((0, 142, 284), meanings if relations else (), strict=False):
        line_y = y + _LEGEND_LINE
        yield f'<path class="line" d="M{x + left} {line_y}h30"/>{_end(end, (x + left, line_y), 1)}'
        yield f'<text class="note" x="{x + left + 38}" y="{line_y + 4}">{end}</text>\n'
    yield "</g>\n"


def _identifier(name: str) -> str:
    """An id that is unique, has no spaces, and can stand in the fragment of a URL."""
    return f"table-{quote(name, safe='')}"


# https://www.w3.org/TR/xml/#charsets
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def xml_text(text: str) -> str:
    """The text as it stands in XML, between tags or in double quotes; characters that XML cannot have are replaced."""
    return escape(_NOT_XML.sub("\ufffd", text), {'"': "&quot;"})
