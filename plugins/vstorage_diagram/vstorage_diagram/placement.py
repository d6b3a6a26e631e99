"""Third step of the layout: how far down each node stands, such that lines are short and mostly straight.

Layer after layer each node wishes to stand level with what it is linked to. The wishes of a layer are met as well as
its order and gaps allow: an isotonic regression by pooling neighbours that would overlap. It minimises the sum of the
distances, not of their squares, so that most lines become exactly straight instead of all of them a little bent.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate

from vstorage_diagram.graph import Graph, Node, Side
from vstorage_diagram.layers import GAP

_LINE_TO_BOX = 20
_LINE_TO_LINE = 12
_ROUNDS = 8
# Of a bend in the middle of a long line, of one at a table, and of leaving the present place.
_WEIGHTS = (800, 100, 1)


def place(graph: Graph) -> None:
    """Set the `y` of all nodes; the uppermost stands at 0."""
    for layer in graph.layers:
        y = 0
        for upper, node in zip([None, *layer], layer, strict=False):
            y += _distance(upper, node) if upper is not None else 0
            node.y = y
    best = _bent_length(graph), [node.y for node in graph.nodes]
    for round_ in range(_ROUNDS):
        both = round_ >= _ROUNDS - 2
        for rightwards in (True, False):
            sides: tuple[Side, ...] = ("left", "right") if both else ("left",) if rightwards else ("right",)
            for layer in graph.layers if rightwards else graph.layers[::-1]:
                _settle(layer, sides)
            length = _bent_length(graph)
            if length < best[0]:
                best = length, [node.y for node in graph.nodes]
    top = min(best[1])
    for node, y in zip(graph.nodes, best[1], strict=True):
        node.y = y - top


def _distance(upper: Node, lower: Node) -> int:
    lines = (upper.box is None) + (lower.box is None)
    return upper.height + (GAP, _LINE_TO_BOX, _LINE_TO_LINE)[lines]


def _bent_length(graph: Graph) -> int:
    return sum(
        abs(link.own.y - link.other.y) * _weight(node, link.other.node)
        for node in graph.nodes
        for link in node.links["right"]
    )


def _weight(node: Node, other: Node) -> int:
    return _WEIGHTS[0] if node.box is None and other.box is None else _WEIGHTS[1]


def _settle(layer: Sequence[Node], sides: Sequence[Side]) -> None:
    """Move the nodes of a layer to where the sum of the distances to their wishes is smallest."""
    # With the stacked heights taken off, not to overlap means not to decrease.
    stacked = 0
    groups: list[tuple[int, int, list[tuple[int, int]]]] = []
    starts: list[int] = []
    for index, node in enumerate(layer):
        stacked += _distance(layer[index - 1], node) if index else 0
        starts.append(stacked)
        wishes = [(node.y - stacked, _WEIGHTS[2])]
        for side in sides:
            for link in node.links[side]:
                wishes.append((link.other.y - link.own.offset - stacked, _weight(node, link.other.node)))
        groups.append((1, _median(wishes), wishes))
        while len(groups) > 1 and groups[-2][1] > groups[-1][1]:
            size, _, lower_wishes = groups.pop()
            upper_size, _, upper_wishes = groups.pop()
            pooled = upper_wishes + lower_wishes
            groups.append((upper_size + size, _median(pooled), pooled))
    index = 0
    for size, y, _ in groups:
        for node, start in zip(layer[index : index + size], starts[index : index + size], strict=True):
            node.y = y + start
        index += size


def _median(wishes: list[tuple[int, int]]) -> int:
    wishes.sort()
    weights = list(accumulate(weight for _, weight in wishes))
    return wishes[bisect_left(weights, weights[-1] / 2)][0]
