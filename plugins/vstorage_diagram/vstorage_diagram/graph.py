"""The tables in their layers and the lines between them, with a place in each layer that a line passes through.

Relations that end at the same column in the same way are one net: they share a line from there to where they part,
as the tracks of a railway do. Between two neighbouring layers a net is a wire with pins on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from vstorage_diagram.boxes import Box
from vstorage_diagram.schema import Relation

Side = Literal["left", "right"]
_OPPOSITE: dict[Side, Side] = {"left": "right", "right": "left"}
# Where lines that end at the same side of a row meet it, from its middle.
_SPREAD = {1: (0,), 2: (-6, 6), 3: (-8, 0, 8)}


@dataclass(eq=False)
class Node:
    """A table, or (without a box) the place where a net passes through the layer."""

    box: Box | None
    layer: int
    index: int = 0
    y: int = 0
    links: dict[Side, list[Link]] = field(default_factory=lambda: {"left": [], "right": []})

    @property
    def height(self) -> int:
        """Zero for a line."""
        return self.box.height if self.box is not None else 0


class Pin(NamedTuple):
    """Where a wire meets a node: `offset` pixels below its top, `fraction` of its height."""

    node: Node
    offset: int
    fraction: float

    @property
    def y(self) -> int:
        """From the top of the picture."""
        return self.node.y + self.offset

    @property
    def rank(self) -> float:
        """Position among all pins of the layer."""
        return self.node.index + self.fraction


class Link(NamedTuple):
    """Two pins in neighbouring layers that are connected, as seen from the node that has the first."""

    own: Pin
    other: Pin


@dataclass(eq=False)
class Wire:
    """A net between one layer and the next."""

    left: list[Pin] = field(default_factory=list)
    right: list[Pin] = field(default_factory=list)
    track: int = 0

    @property
    def pins(self) -> list[Pin]:
        """All of them."""
        return self.left + self.right

    @property
    def is_straight(self) -> bool:
        """Whether it needs no vertical part."""
        return len({pin.y for pin in self.pins}) == 1 and bool(self.left) and bool(self.right)


class Hop(NamedTuple):
    """A step of a relation's line: along `wire` from `start` to `end`."""

    wire: Wire
    start: Pin
    end: Pin


@dataclass(eq=False)
class Graph:
    """Tables that hang together.

    Attributes:
        layers: The nodes, from left to right and from top to bottom.
        channels: The wires right of each layer.
        routes: Each relation's line, from the child to the parent.
    """

    layers: list[list[Node]]
    channels: list[list[Wire]]
    routes: list[tuple[Relation, list[Hop]]] = field(default_factory=list)

    @property
    def nodes(self) -> list[Node]:
        """All of them, layer by layer."""
        return [node for layer in self.layers for node in layer]


class _NetKey(NamedTuple):
    parent: str
    columns: tuple[str, ...]
    end: str
    side: Side


def build_graph(boxes: Mapping[str, Box], relations: Sequence[Relation], layer: Mapping[str, int]) -> Graph:
    """The graph of these tables; the order within the layers is still arbitrary."""
    depth = max(layer.values()) + 1
    graph = Graph(layers=[[] for _ in range(depth)], channels=[[] for _ in range(depth)])
    nodes = {name: Node(box, layer[name]) for name, box in boxes.items()}
    for node in nodes.values():
        graph.layers[node.layer].append(node)

    nets: dict[_NetKey, list[Relation]] = {}
    for relation in relations:
        side: Side = "right" if layer[relation.child] >= layer[relation.parent] else "left"
        key = _NetKey(relation.parent, relation.parent_columns, relation.parent_end, side)
        nets.setdefault(key, []).append(relation)

    ports: dict[tuple[str, str, Side], list[object]] = {}
    for key, members in nets.items():
        ports.setdefault((key.parent, key.columns[0], key.side), []).append(key)
        for relation in members:
            ports.setdefault(_child_port(relation, key.side), []).append(relation)

    def pin_at(port: tuple[str, str, Side], user: object) -> Pin:
        name, column, _ = port
        users = ports[port]
        offset = boxes[name].row_y(column) + _SPREAD[min(len(users), 3)][min(users.index(user), 2)]
        return Pin(nodes[name], offset, offset / boxes[name].height)

    for key, members in nets.items():
        parent = pin_at((key.parent, key.columns[0], key.side), key)
        children = [(relation, pin_at(_child_port(relation, key.side), relation)) for relation in members]
        _add_net(graph, parent, children, key.side)
    return graph


def _child_port(relation: Relation, side: Side) -> tuple[str, str, Side]:
    # A table that refers to itself has both ends on one side.
    child_side = side if relation.child == relation.parent else _OPPOSITE[side]
    return relation.child, relation.child_columns[0], child_side


def _add_net(graph: Graph, parent: Pin, children: Sequence[tuple[Relation, Pin]], side: Side) -> None:
    """Lead the net from the parent to that side, layer by layer, until all children are reached."""
    step = 1 if side == "right" else -1
    reach = max(1, *(abs(pin.node.layer - parent.node.layer) for _, pin in children))
    source = parent
    trunk: list[Hop] = []
    for distance in range(1, reach + 1):
        layer = parent.node.layer + step * distance
        wire = Wire()
        near, far = (wire.left, wire.right) if side == "right" else (wire.right, wire.left)
        near.append(source)
        for relation, pin in children:
            if pin.node.layer == layer:
                far.append(pin)
            elif pin.node is parent.node and distance == 1:
                near.append(pin)
            else:
                continue
            graph.routes.append((relation, [Hop(wire, pin, source), *reversed(trunk)]))
        if distance < reach:
            passing = Pin(Node(None, layer), 0, 0.5)
            graph.layers[layer].append(passing.node)
            far.append(passing)
            trunk.append(Hop(wire, passing, source))
        for pin in far:
            source.node.links[side].append(Link(source, pin))
            pin.node.links[_OPPOSITE[side]].append(Link(pin, source))
        graph.channels[layer - 1 if side == "right" else layer].append(wire)
        if distance < reach:
            source = passing
