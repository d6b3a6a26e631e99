"""Draws tables through a storage and reads what was drawn back from the file."""

import io
import re
from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from sqlalchemy import Column, DateTime, Enum, ForeignKey, Integer, MetaData, Table
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

import vstorage_diagram.plugin
from vstorage_core import ModelAccessor

SVG = "{http://www.w3.org/2000/svg}"
HOSTILE_NAMES = [
    'it\'s "quoted"',
    "<script>alert(1)</script>",
    "Größe & Maß",
    "温度センサー記録",
    "a" * 200,
    "W" * 60,
    "x; DROP TABLE y --",
    "direction LR",
    "pk",
    "percent %% {{}} back\\",
    "two\nlines\tand a tab",
    "robot 🤖",
    "שלום עולם",
    "end",
    "#35;",
    "control \x01 character",
    "]]>",
    " ",
]


@dataclass
class Text:
    """A piece of text in a box: where it begins, or ends when it is right-aligned."""

    text: str
    x: float
    y: float
    size: int
    bold: bool
    right_aligned: bool


@dataclass
class Box:
    """A table as drawn."""

    id: str
    tooltip: str
    left: int
    top: int
    right: int
    bottom: int
    rows: list[tuple[str, ...]]
    texts: list[Text]
    tooltips: list[str]


class Picture:
    """What stands in an SVG file of ours."""

    def __init__(self, data):
        self.data = data
        self.root = ElementTree.fromstring(data)
        self.title = self.root.findtext(f"{SVG}title")
        self.description = self.root.findtext(f"{SVG}desc")
        self.width, self.height = int(self.root.get("width")), int(self.root.get("height"))
        boxes = [_box(group) for group in self.root.iter(f"{SVG}g") if group.get("class") == "table"]
        self.boxes = {box.tooltip.partition("\n")[0]: box for box in boxes}
        self.lines = {
            path.findtext(f"{SVG}title"): _points(path.get("d"))
            for path in self.root.iter(f"{SVG}path")
            if path.get("class") == "relation"
        }

    @property
    def segments(self):
        """Each straight part of each line, with what the line means."""
        for meaning, points in self.lines.items():
            for start, end in pairwise(points):
                if start != end:
                    yield meaning, start, end

    @property
    def texts(self):
        """All text of the picture."""
        return ["".join(element.itertext()) for element in self.root.iter(f"{SVG}text")]


def _box(group):
    left, top = map(int, re.findall(r"\d+", group.get("transform")))
    frame = next(group.iter(f"{SVG}rect"))
    texts = [
        Text(
            text=element.text or "",
            x=float(element.get("x")),
            y=float(element.get("y")),
            size={"title": 14, "type": 12}.get(element.get("class"), 13),
            bold=element.get("class") in ("title", "key"),
            right_aligned=element.get("text-anchor") == "end",
        )
        for element in group.iter(f"{SVG}text")
        if not element.get("class", "").startswith(("mark", "pill"))
    ]
    rows = {}
    for element in group.iter(f"{SVG}text"):
        # A mark is set a little higher than the rest of its row.
        rows.setdefault(round(float(element.get("y")) / 4), []).append(element.text)
    title, *tooltips = [element.text for element in group.iter(f"{SVG}title")]
    return Box(
        id=group.get("id"),
        tooltip=title,
        left=left,
        top=top,
        right=left + int(frame.get("width")),
        bottom=top + int(frame.get("height")),
        rows=[tuple(row) for row in rows.values()][1:],
        texts=texts,
        tooltips=tooltips,
    )


def _points(path):
    return [(int(x), int(y)) for x, y in re.findall(r"[ML](-?\d+) (-?\d+)", path)]


@pytest.fixture
def storage_with(open_storage):
    """Opens a storage that has these tables beside its own."""

    def open_(metadata):
        class Own(SQLModel, registry=registry(metadata=metadata)):
            pass

        class Anchor(Own, table=True):
            __tablename__ = "anchor_of_the_metadata"

            id: int = Field(primary_key=True)

        storage = open_storage("sqlite://", plugins=[vstorage_diagram.plugin])
        storage.register(ModelAccessor(Anchor, "anchors", storage=storage))
        storage.create_tables()
        return storage

    return open_


@pytest.fixture
def export(storage_with):
    """Exports these tables and no others; returns the bytes."""

    def export_(metadata, form="diagram"):
        names = list(metadata.tables)
        stream = io.BytesIO()
        storage_with(metadata).export(form, stream, tables=names)
        return stream.getvalue()

    return export_


@pytest.fixture
def draw(export):
    """Draws these tables and no others."""
    return lambda metadata: Picture(export(metadata))


@pytest.fixture
def hostile():
    """Tables whose names mean something to XML, Mermaid, DOT or a shell, each referring to one before it."""
    metadata = MetaData()
    for index, name in enumerate(HOSTILE_NAMES):
        columns = [
            Column("id", Integer, primary_key=True),
            Column(("PK", "fk", "Uk-9")[index % 3], Integer),
            Column(f"{name} column", Enum('a"b', "<c>", "d%%e\\", name="hostile"), nullable=index % 2 == 0),
            Column("deleted_at", DateTime, comment='says "<&>" \\ %% #35; -->'),
        ]
        if index:
            parent = HOSTILE_NAMES[(index - 1) // 2]
            columns.append(Column(f'to "{index}" <&>', ForeignKey(metadata.tables[parent].c.id)))
        Table(name, metadata, *columns)
    return metadata


@pytest.fixture
def picture_of():
    """Reads an SVG file."""
    return Picture
