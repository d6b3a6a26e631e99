"""First step of the layout: which table stands in which layer, from left to right, parents left of their children."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from vstorage_diagram.schema import Relation

GAP = 32
_LOWEST_LIMIT = 1000
_PULLS = 6


def assign_layers(sizes: Mapping[str, tuple[int, int]], relations: Sequence[Relation]) -> dict[str, int]:
    """The layer of each table, such that related tables never share one.

    Args:
        sizes: Width and height of each table in pixels; the tables hang together.
        relations: Between these tables. Where they form a circle, an optional one may point backwards.
    """
    right_of = _without_circles(sizes, relations)
    left_of: dict[str, set[str]] = {name: set() for name in sizes}
    for name, others in right_of.items():
        for other in others:
            left_of[other].add(name)
    depth: dict[str, int] = {}
    for name in _topological(right_of, left_of):
        depth[name] = max((depth[other] + 1 for other in left_of[name]), default=0)
    # Those that nothing depends on come last, so that it is they who give way where a layer is full.
    order = sorted(sizes, key=lambda name: (depth[name], not right_of[name]))

    area = sum((width + 100) * (height + GAP) for width, height in sizes.values())
    limit = max(_LOWEST_LIMIT, math.isqrt(int(area / 1.5)))
    filled: dict[int, int] = {}
    layer: dict[str, int] = {}

    def has_room(index: int, name: str) -> bool:
        return index not in filled or filled[index] + sizes[name][1] + GAP <= limit

    def put(name: str, index: int) -> None:
        layer[name] = index
        filled[index] = filled.get(index, 0) + sizes[name][1] + GAP

    for name in order:
        index = max((layer[other] + 1 for other in left_of[name]), default=0)
        while not has_room(index, name):
            index += 1
        put(name, index)
    # Short lines: each table goes towards the side on which it has more relatives.
    for _ in range(_PULLS):
        for name in order:
            lowest = max((layer[other] + 1 for other in left_of[name]), default=0)
            highest = min((layer[other] - 1 for other in right_of[name]), default=layer[name])
            here = layer[name]
            if len(left_of[name]) == len(right_of[name]):
                continue
            steps = range(lowest, here) if len(left_of[name]) > len(right_of[name]) else range(highest, here, -1)
            better = next((index for index in steps if index in filled and has_room(index, name)), None)
            if better is not None:
                filled[here] -= sizes[name][1] + GAP
                put(name, better)
    used = {index: position for position, index in enumerate(sorted(set(layer.values())))}
    return {name: used[index] for name, index in layer.items()}


def _without_circles(names: Mapping[str, object], relations: Sequence[Relation]) -> dict[str, set[str]]:
    """For each table those that belong right of it. Required relations are heard first."""
    right_of: dict[str, set[str]] = {name: set() for name in names}
    for relation in sorted(relations, key=lambda relation: relation.parent_end == "zero or one"):
        if relation.parent == relation.child:
            continue
        if _reaches(right_of, relation.child, relation.parent):
            right_of[relation.child].add(relation.parent)
        else:
            right_of[relation.parent].add(relation.child)
    return right_of


def _reaches(right_of: Mapping[str, set[str]], start: str, goal: str) -> bool:
    waiting, seen = [start], {start}
    while waiting:
        for name in right_of[waiting.pop()] - seen:
            if name == goal:
                return True
            seen.add(name)
            waiting.append(name)
    return False


def _topological(right_of: Mapping[str, set[str]], left_of: Mapping[str, set[str]]) -> list[str]:
    missing = {name: len(others) for name, others in left_of.items()}
    ready = [name for name, count in missing.items() if count == 0]
    # Grows while it is read: each name is appended when the last one left of it has been.
    for name in ready:
        for other in right_of[name]:
            missing[other] -= 1
            if missing[other] == 0:
                ready.append(other)
    return ready
