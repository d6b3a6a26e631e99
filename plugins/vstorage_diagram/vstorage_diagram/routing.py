"""Last step of the layout: in which order the vertical parts of the wires stand between two layers.

Lines are horizontal within a layer, where they have a place of their own between the boxes, and vertical only in
the channel between two layers, where no boxes are: so no line ever touches a foreign box.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from vstorage_diagram.graph import Wire

# Lines that would run on top of each other are worse than any crossing.
_OVERLAP = 1000
_TOUCHING = 5
_CLEARANCE = 8
_ROUNDS = 4


class Tracks(NamedTuple):
    """How many tracks a channel has, and whether lines of it still run on top of each other."""

    number: int
    overlap: bool


def assign_tracks(wires: Sequence[Wire]) -> Tracks:
    """Give each bent wire of a channel its track, from the left, such that few lines cross."""
    bent = [_Shape(wire) for wire in wires if not wire.is_straight]
    bent.sort(key=lambda shape: (shape.top, shape.bottom))
    cost = {(a, b): _cost(a, b) for a in bent for b in bent if a is not b}
    order: list[_Shape] = []
    for shape in bent:
        _insert(order, shape, cost)
    for _ in range(_ROUNDS):
        before = list(order)
        for shape in before:
            order.remove(shape)
            _insert(order, shape, cost)
        if order == before:
            break
    for index, shape in enumerate(order):
        left_ones = [other for other in order[:index] if _must_not_share(other, shape)]
        shape.wire.track = max((other.wire.track + 1 for other in left_ones), default=0)
    overlap = any(cost[a, b] >= _OVERLAP for a, b in combinations(order, 2))
    return Tracks(number=max((shape.wire.track + 1 for shape in order), default=0), overlap=overlap)


class _Shape:
    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.left = [pin.y for pin in wire.left]
        self.right = [pin.y for pin in wire.right]
        self.top = min(self.left + self.right)
        self.bottom = max(self.left + self.right)

    def spans(self, y: int) -> bool:
        return self.top <= y <= self.bottom


def _cost(left: _Shape, right: _Shape) -> int:
    """How bad it is when `left` stands left of `right`."""
    # What leaves `left` to the right passes `right`, and what comes to `right` from the left passes `left`.
    crossing = sum(map(right.spans, left.right)) + sum(map(left.spans, right.left))
    return crossing + _OVERLAP * _meet(left.right, right.left)


def _meet(some: Sequence[int], others: Sequence[int]) -> int:
    return sum(abs(one - other) < _TOUCHING for one in some for other in others)


def _must_not_share(one: _Shape, other: _Shape) -> bool:
    if one.top < other.bottom + _CLEARANCE and other.top < one.bottom + _CLEARANCE:
        return True
    return bool(_meet(one.left, other.right) or _meet(one.right, other.left))


def _insert(order: list[_Shape], shape: _Shape, cost: dict[tuple[_Shape, _Shape], int]) -> None:
    """Put the shape where it costs least."""
    price = sum(cost[shape, other] for other in order)
    best, place = price, 0
    for index, other in enumerate(order):
        price += cost[other, shape] - cost[shape, other]
        if price < best:
            best, place = price, index + 1
    order.insert(place, shape)
