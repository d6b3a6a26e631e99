"""The Mermaid and DOT forms: what they say, and that any name is written so that those tools read it back."""

import re
from xml.etree import ElementTree

import pytest
from sqlalchemy import Column, DateTime, Enum, ForeignKey, Integer, MetaData, Numeric, String, Table

# As Mermaid's own lexer has them, packages/mermaid/src/diagrams/er/parser/erDiagram.jison.
MERMAID_NAME = r'"[^"%\r\n\v\\]+"'
MERMAID_WORD = r"[*A-Za-z_\u00C0-\uFFFF][A-Za-z0-9\-_\[\]()\u00C0-\uFFFF*]*"
MERMAID_ENTITY = re.compile(rf"    ({MERMAID_NAME}) \{{")
MERMAID_COLUMN = re.compile(
    rf'        ({MERMAID_WORD}) ({MERMAID_WORD})(?: ((?:PK|FK|UK)(?:, (?:PK|FK|UK))*))?(?: "([^"]*)")?'
)
MERMAID_RELATION = re.compile(rf"    ({MERMAID_NAME}) (\|\||\|o)--(o\||o\{{) ({MERMAID_NAME}) : ({MERMAID_NAME})")
DOT_ID = r'"((?:[^"\\]|\\.)*)"'
DOT_NODE = re.compile(rf"    {DOT_ID} \[tooltip={DOT_ID}, label=<\n(.*?)>\]\n", re.DOTALL)
DOT_EDGE = re.compile(
    rf"    {DOT_ID}:right(\d+):e -> {DOT_ID}:left(\d+):w"
    rf" \[arrowtail=(\w+), arrowhead=(\w+), tooltip={DOT_ID}\]\n",
    re.DOTALL,
)


@pytest.fixture
def machine():
    metadata = MetaData()
    Table("station", metadata, Column("id", Integer, primary_key=True), Column("name", String(40), unique=True))
    Table(
        "recipe",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("station_id", ForeignKey("station.id"), nullable=False),
        Column("volume", Numeric(8, 2), nullable=False),
        Column("kind", Enum("FILL", "CAP", name="kind"), nullable=False),
        Column("deleted_at", DateTime),
    )
    return metadata


def mermaid_text(quoted):
    """What Mermaid shows for a quoted text."""
    return re.sub(r"#(\d+);", lambda match: chr(int(match[1])), quoted.strip('"'))


def test_mermaid_says_what_the_picture_says(export, machine):
    assert export(machine, "mermaid").decode() == (
        "erDiagram\n"
        '    "station" {\n'
        "        integer id PK\n"
        '        text(40) name UK "May be empty"\n'
        "    }\n"
        '    "recipe" {\n'
        "        integer id PK\n"
        '        integer station_id FK "Refers to station.id"\n'
        "        decimal(8_2) volume\n"
        '        enum kind "One of FILL, CAP"\n'
        '        datetime deleted_at "May be empty"\n'
        "    }\n"
        '    "station" ||--o{ "recipe" : "station_id"\n'
    )


def test_mermaid_reads_any_name_back(export, hostile):
    names = list(hostile.tables)
    header, *lines = export(hostile, "mermaid").decode().splitlines()
    assert header == "erDiagram"
    entities, columns, relations = [], [], []
    for line in lines:
        if entity := MERMAID_ENTITY.fullmatch(line):
            entities.append(mermaid_text(entity[1]))
        elif column := MERMAID_COLUMN.fullmatch(line):
            assert not re.match(r"(PK|FK|UK)\b", column[2], re.IGNORECASE | re.ASCII)
            columns.append((column[2], mermaid_text(column[4] or "")))
        elif relation := MERMAID_RELATION.fullmatch(line):
            relations.append((mermaid_text(relation[1]), mermaid_text(relation[4]), mermaid_text(relation[5])))
        else:
            assert line == "    }"
        # Mermaid takes these for itself: a comment anywhere, a direction outside the braces.
        assert "%%" not in line
        assert line.startswith(" " * 8) or not re.search(r"direction\s", line)
    assert sorted(entities) == sorted(names)
    assert sorted(relations) == sorted(
        (names[(index - 1) // 2], names[index], f'to "{index}" <&>') for index in range(1, len(names))
    )
    for name in names:
        assert any(comment.startswith(f"{name} column. ") for _, comment in columns), name


def test_dot_says_what_the_picture_says(export, machine):
    text = export(machine, "dot").decode()
    labels = {name: ElementTree.fromstring(label) for name, _, label in DOT_NODE.findall(text)}
    cells = {
        name: [["".join(cell.itertext()) for cell in row.iter("td")] for row in label.iter("tr")]
        for name, label in labels.items()
    }
    assert cells == {
        "station": [["station"], ["PK", "id", "integer"], ["UQ", "name", "text(40)?"]],
        "recipe": [
            ["recipe (soft delete)"],
            ["PK", "id", "integer"],
            ["FK", "station_id", "integer"],
            ["", "volume", "decimal(8,2)"],
            ["", "kind", "enum"],
            ["", "deleted_at", "datetime?"],
        ],
    }
    assert DOT_EDGE.findall(text) == [
        ("station", "0", "recipe", "1", "teetee", "crowodot", "recipe.station_id → station.id")
    ]


def test_dot_reads_any_name_back(export, hostile):
    names = list(hostile.tables)
    text = export(hostile, "dot").decode()
    start, _, rest = text.partition("edge [")
    assert start.startswith("digraph schema {\n")
    nodes, edges = DOT_NODE.findall(rest), DOT_EDGE.findall(rest)
    left_over = DOT_EDGE.sub("", DOT_NODE.sub("", rest.partition("\n")[2]))
    assert left_over == "}\n"
    shown = [ElementTree.fromstring(label).find("tr/td/font/b").text for _, _, label in nodes]
    assert sorted(shown) == sorted(name.replace("\x01", "\ufffd") for name in names)
    ids = [name for name, *_ in nodes]
    assert len(edges) == len(names) - 1
    assert {edge[0] for edge in edges} | {edge[2] for edge in edges} <= set(ids)


def test_without_tables_both_are_empty_diagrams(export):
    assert export(MetaData(), "mermaid") == b"erDiagram\n"
    assert DOT_NODE.findall(export(MetaData(), "dot").decode()) == []
