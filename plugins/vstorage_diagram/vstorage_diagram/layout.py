"""Where everything stands: a layered layout of what hangs together, and the parts on one page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from vstorage_core import report_progress
from vstorage_diagram.boxes import Box, box_of
from vstorage_diagram.graph import Graph, Hop, Node, Pin, Wire, build_graph
from vstorage_diagram.layers import GAP, assign_layers
from vstorage_diagram.ordering import reduce_crossings
from vstorage_diagram.placement import place
from vstorage_diagram.routing import assign_tracks
from vstorage_diagram.schema import Relation, Schema

PART_GAP = 48
# Room for the symbol at the end of a line and the round corner behind it.
END_LENGTH = 34
TRACK_GAP = 10
_ASPECT = 1.6
_NUDGE = 7
_NUDGES = 4

Point = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class PlacedBox:
    """A table's box and its upper left corner."""

    box: Box
    x: int
    y: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """A relation's line from the child to the parent; its parts are horizontal and vertical in turn."""

    relation: Relation
    points: tuple[Point, ...]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Boxes and lines within `width` and `height` pixels; `crossings` tells how many pairs of lines cross."""

    boxes: tuple[PlacedBox, ...]
    lines: tuple[Line, ...]
    width: int
    height: int
    crossings: int = 0

    def moved(self, x: int, y: int) -> Layout:
        """The same, farther to the right and down."""
        return Layout(
            boxes=tuple(PlacedBox(box=placed.box, x=placed.x + x, y=placed.y + y) for placed in self.boxes),
            lines=tuple(
                Line(relation=line.relation, points=tuple((px + x, py + y) for px, py in line.points))
                for line in self.lines
            ),
            width=self.width + x,
            height=self.height + y,
            crossings=self.crossings,
        )


def lay_out(schema: Schema) -> Layout:
    """Place all tables; those that hang together first, those that stand alone below."""
    parts: list[Layout] = []
    done = 0
    for names in _components(schema):
        boxes = {table.name: box_of(table) for table in schema.tables if table.name in names}
        parts.append(_lay_out_part(boxes, [relation for relation in schema.relations if relation.child in names]))
        done += len(names)
        report_progress("layout", done, len(schema.tables))
    # The tallest first, so that each shelf is full; where they are equal, the order of the schema stays.
    connected = sorted((part for part in parts if len(part.boxes) > 1), key=lambda part: -part.height)
    alone = [part for part in parts if len(part.boxes) == 1]
    area = sum((part.width + PART_GAP) * (part.height + PART_GAP) for part in parts)
    width = max([math.isqrt(int(area * _ASPECT)), *(part.width for part in parts)])
    upper = _shelves(connected, width)
    return _together([upper, _columns(alone, width).moved(0, upper.height + PART_GAP if connected else 0)])


def _components(schema: Schema) -> list[set[str]]:
    """Sets of tables that hang together, in the order of the schema."""
    component = {table.name: {table.name} for table in schema.tables}
    for relation in schema.relations:
        one, other = component[relation.child], component[relation.parent]
        if one is not other:
            one |= other
            component.update(dict.fromkeys(other, one))
    return list({id(names): names for names in component.values()}.values())


def _lay_out_part(boxes: dict[str, Box], relations: Sequence[Relation]) -> Layout:
    sizes = {name: (box.width, box.height) for name, box in boxes.items()}
    graph = build_graph(boxes, relations, assign_layers(sizes, relations))
    crossings = reduce_crossings(graph)
    place(graph)
    track_x: dict[Wire, int] = {}
    sides: dict[Node, tuple[int, int]] = {}
    placed: list[PlacedBox] = []
    x = 0
    for index, layer in enumerate(graph.layers):
        tables = [(node, node.box) for node in layer if node.box is not None]
        width = max(box.width for _, box in tables)
        sides.update({node: (x, x + width) for node, _ in tables})
        placed += [PlacedBox(box=replace(box, width=width), x=x, y=node.y) for node, box in tables]
        x += width + END_LENGTH
        tracks = _route(graph, index)
        track_x.update({wire: x + wire.track * TRACK_GAP for wire in graph.channels[index]})
        x += max(tracks - 1, 0) * TRACK_GAP + END_LENGTH
    lines = [Line(relation=relation, points=_points(hops, sides, track_x)) for relation, hops in graph.routes]
    return _enclosing(placed, lines, crossings)


def _route(graph: Graph, index: int) -> int:
    """Assign the tracks right of that layer; returns how many there are."""
    tracks = assign_tracks(graph.channels[index])
    for _ in range(_NUDGES):
        if not tracks.overlap:
            break
        # Two lines that change places exactly need some pixels between them: all that is right of here goes down.
        for node in chain.from_iterable(graph.layers[index + 1 :]):
            node.y += _NUDGE
        tracks = assign_tracks(graph.channels[index])
    return tracks.number


def _points(
    hops: Sequence[Hop], sides: Mapping[Node, tuple[int, int]], track_x: Mapping[Wire, int]
) -> tuple[Point, ...]:
    def end_of(pin: Pin, wire: Wire) -> Point:
        left, right = sides[pin.node]
        return (right if pin in wire.left else left), pin.y

    points = [end_of(hops[0].start, hops[0].wire)]
    for hop in hops:
        points += [(track_x[hop.wire], hop.start.y), (track_x[hop.wire], hop.end.y)]
    return (*points, end_of(hops[-1].end, hops[-1].wire))


def _enclosing(boxes: Iterable[PlacedBox], lines: Iterable[Line], crossings: int = 0) -> Layout:
    boxes, lines = tuple(boxes), tuple(lines)
    corners = [(placed.x + placed.box.width, placed.y + placed.box.height) for placed in boxes]
    corners += [point for line in lines for point in line.points]
    return Layout(
        boxes=boxes,
        lines=lines,
        width=max((x for x, _ in corners), default=0),
        height=max((y for _, y in corners), default=0),
        crossings=crossings,
    )


def _together(parts: Sequence[Layout]) -> Layout:
    return _enclosing(
        (placed for part in parts for placed in part.boxes),
        (line for part in parts for line in part.lines),
        sum(part.crossings for part in parts),
    )


def _shelves(parts: Sequence[Layout], width: int) -> Layout:
    """Side by side as long as there is room, then on the next shelf."""
    placed: list[Layout] = []
    x = y = bottom = 0
    for part in parts:
        if x and x + part.width > width:
            x, y = 0, bottom + PART_GAP
        placed.append(part.moved(x, y))
        x += part.width + PART_GAP
        bottom = max(bottom, y + part.height)
    return _together(placed)


def _columns(parts: Sequence[Layout], width: int) -> Layout:
    """In as many columns as there is room for, each part in the column that is shortest so far."""
    for count in range(len(parts), 0, -1):
        columns: list[list[Layout]] = [[] for _ in range(count)]
        bottoms = [0] * count
        for part in parts:
            shortest = bottoms.index(min(bottoms))
            columns[shortest].append(part.moved(0, bottoms[shortest]))
            bottoms[shortest] += part.height + GAP
        widths = [max(part.width for part in column) for column in columns]
        if sum(widths) + GAP * (count - 1) <= width:
            return _together(
                [part.moved(sum(widths[:i]) + GAP * i, 0) for i, column in enumerate(columns) for part in column]
            )
    return _together([])
