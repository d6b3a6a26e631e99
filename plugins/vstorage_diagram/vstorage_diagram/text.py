"""The schema as text that other tools draw: Mermaid and Graphviz DOT."""

from __future__ import annotations

import re
from collections.abc import Iterator

from vstorage_diagram.schema import ChildEnd, Column, Mark, ParentEnd, Schema, Table
from vstorage_diagram.svg import xml_text

_MERMAID_KEYS: dict[Mark, str] = {"PK": "PK", "FK": "FK", "UQ": "UK"}
_MERMAID_PARENT: dict[ParentEnd, str] = {"exactly one": "||", "zero or one": "|o"}
_MERMAID_CHILD: dict[ChildEnd, str] = {"zero or one": "o|", "zero or many": "o{"}
_DOT_ARROWS: dict[ParentEnd | ChildEnd, str] = {
    "exactly one": "teetee",
    "zero or one": "teeodot",
    "zero or many": "crowodot",
}


def mermaid(schema: Schema) -> Iterator[str]:
    """An entity relationship diagram, see https://mermaid.js.org/syntax/entityRelationshipDiagram.html."""
    yield "erDiagram\n"
    for table in schema.tables:
        yield f"    {_mermaid_name(table.name)} {{\n"
        for column in table.columns:
            yield f"        {_mermaid_column(column)}\n"
        yield "    }\n"
    for relation in schema.relations:
        ends = f"{_MERMAID_PARENT[relation.parent_end]}--{_MERMAID_CHILD[relation.child_end]}"
        label = _mermaid_name(", ".join(relation.child_columns))
        yield f"    {_mermaid_name(relation.parent)} {ends} {_mermaid_name(relation.child)} : {label}\n"


def _mermaid_column(column: Column) -> str:
    name = _mermaid_word(column.name)
    parts = [_mermaid_word(column.type), name]
    if column.marks:
        parts.append(", ".join(_MERMAID_KEYS[mark] for mark in column.marks))
    comments = [column.name] if name != column.name else []
    comments += ["May be empty"] if column.nullable else []
    comments += column.details
    if comments:
        parts.append(f'"{_mermaid_text(". ".join(comments))}"')
    return " ".join(parts)


def _mermaid_word(text: str) -> str:
    """The text in those characters that types and columns may have; a column cannot be called like a key."""
    word = re.sub(r"[^\w()-]|[\x80-\xbf]", "_", text)
    cannot_begin = re.match(r"$|[^a-z_\xc0-\U0010ffff]|[pfu]k(?![a-z0-9_])", word, re.IGNORECASE)
    return f"_{word}" if cannot_begin else word


def _mermaid_name(text: str) -> str:
    # Mermaid looks for its keywords in quoted names too, so not even a space is left as it is.
    return f'"{_mermaid_text(text or " ").replace(" ", "#32;")}"'


def _mermaid_text(text: str) -> str:
    """The text with all that means something to Mermaid as its own kind of character reference."""
    return re.sub(r"[^\w ,.()-]", lambda match: f"#{ord(match[0])};", text)


def dot(schema: Schema) -> Iterator[str]:
    """A graph with a table in each node, see https://graphviz.org/doc/info/lang.html."""
    yield (
        "digraph schema {\n"
        "    graph [rankdir=LR, nodesep=0.4, ranksep=1.2]\n"
        '    node [shape=plain, fontname="Helvetica,Arial,sans-serif", fontsize=11]\n'
        '    edge [dir=both, arrowsize=0.8, color="#71859a"]\n'
    )
    for table in schema.tables:
        yield from _dot_table(table)
    position = {
        (table.name, column.name): index for table in schema.tables for index, column in enumerate(table.columns)
    }
    for relation in schema.relations:
        parent = position[relation.parent, relation.parent_columns[0]]
        child = position[relation.child, relation.child_columns[0]]
        yield (
            f"    {_dot_id(relation.parent)}:right{parent}:e -> {_dot_id(relation.child)}:left{child}:w"
            f" [arrowtail={_DOT_ARROWS[relation.parent_end]}, arrowhead={_DOT_ARROWS[relation.child_end]},"
            f" tooltip={_dot_id(str(relation))}]\n"
        )
    yield "}\n"


def _dot_table(table: Table) -> Iterator[str]:
    yield (
        f"    {_dot_id(table.name)} [tooltip={_dot_id(table.summary or table.name)}, label=<\n"
        '        <table border="1" cellborder="0" cellspacing="0" cellpadding="5" color="#9fb0c2">\n'
        f'        <tr><td colspan="3" align="left" bgcolor="#33506e"><font color="white"><b>{_html(table.name)}</b>'
        f"{' (soft delete)' if table.has_soft_delete else ''}</font></td></tr>\n"
    )
    for index, column in enumerate(table.columns):
        name = f"<b>{_html(column.name)}</b>" if "PK" in column.marks else _html(column.name)
        kind = _html(column.type + ("?" if column.nullable else ""))
        yield (
            f'        <tr><td port="left{index}" align="left">{" ".join(column.marks)}</td>'
            f'<td align="left">{name}</td><td port="right{index}" align="right">{kind}</td></tr>\n'
        )
    yield "        </table>>]\n"


def _html(text: str) -> str:
    return xml_text(text) or " "


def _dot_id(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
