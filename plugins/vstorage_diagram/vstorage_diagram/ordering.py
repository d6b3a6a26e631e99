"""Second step of the layout: the order within each layer, such that few lines cross.

Barycentres in sweeps from layer to layer, then swaps of neighbours, from several starting orders; the best one stays.
Sugiyama, Tagawa, Toda: Methods for Visual Understanding of Hierarchical System Structures, 1981.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort

from vstorage_diagram.graph import Graph, Node, Side

_SWEEPS = 8
_SWAP_ROUNDS = 3


def reduce_crossings(graph: Graph) -> int:
    """Sort each layer; returns how many pairs of lines still cross."""
    start = [list(layer) for layer in graph.layers]
    for layer in start:
        _number(layer)
    best = crossings(graph), start
    for reverse in (False, True):
        for leftwards in (False, True):
            graph.layers = [layer[::-1] if reverse else list(layer) for layer in start]
            for layer in graph.layers:
                _number(layer)
            for sweep in range(_SWEEPS):
                _sweep(graph, leftwards=leftwards ^ (sweep % 2 == 1))
                _swap_neighbours(graph)
                count = crossings(graph)
                if count < best[0]:
                    best = count, [list(layer) for layer in graph.layers]
                if count == 0:
                    break
    graph.layers = best[1]
    for layer in graph.layers:
        _number(layer)
    return best[0]


def crossings(graph: Graph) -> int:
    """How many pairs of lines between neighbouring layers cross."""
    count = 0
    for layer in graph.layers:
        pairs = sorted((link.own.rank, link.other.rank) for node in layer for link in node.links["right"])
        seen: list[float] = []
        for _, right in pairs:
            count += len(seen) - bisect_right(seen, right)
            insort(seen, right)
    return count


def _number(layer: list[Node]) -> None:
    for index, node in enumerate(layer):
        node.index = index


def _sweep(graph: Graph, *, leftwards: bool) -> None:
    side: Side = "right" if leftwards else "left"
    for layer in graph.layers[::-1] if leftwards else graph.layers:
        linked = [node for node in layer if node.links[side]]
        linked.sort(key=lambda node: sum(link.other.rank for link in node.links[side]) / len(node.links[side]))
        replacements = iter(linked)
        # What has no links on that side keeps its place.
        layer[:] = [next(replacements) if node.links[side] else node for node in layer]
        _number(layer)


def _swap_neighbours(graph: Graph) -> None:
    for _ in range(_SWAP_ROUNDS):
        improved = [_swap_in_layer(layer) for layer in graph.layers]
        if not any(improved):
            break


def _swap_in_layer(layer: list[Node]) -> bool:
    sides: tuple[Side, Side] = ("left", "right")
    ends = {node: [sorted(link.other.rank for link in node.links[side]) for side in sides] for node in layer}
    improved = False
    for index in range(len(layer) - 1):
        upper, lower = layer[index], layer[index + 1]
        gain = sum(
            _inversions(ends[upper][i], ends[lower][i]) - _inversions(ends[lower][i], ends[upper][i]) for i in (0, 1)
        )
        if gain > 0:
            layer[index], layer[index + 1] = lower, upper
            improved = True
    _number(layer)
    return improved


def _inversions(upper: list[float], lower: list[float]) -> int:
    return sum(bisect_left(lower, end) for end in upper)
