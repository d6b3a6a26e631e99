"""Whatever the schema: boxes stand apart, lines go around them, text stays inside."""

import random
from itertools import combinations

import pytest
from sqlalchemy import Column, DateTime, Float, ForeignKey, ForeignKeyConstraint, Integer, MetaData, String, Table

from vstorage_diagram.boxes import text_width

FACTORY = {
    "site": [],
    "production_line": ["site"],
    "machine": ["production_line"],
    "station": ["machine", "station"],
    "axis": ["station"],
    "motor": ["axis"],
    "sensor": ["station"],
    "reading": ["sensor"],
    "operator": [],
    "role": [],
    "operator_role": ["operator", "role"],
    "shift": ["production_line", "operator"],
    "alarm": ["station", "operator"],
    "alarm_ack": ["alarm", "operator"],
    "recipe": ["machine", "operator"],
    "recipe_step": ["recipe", "station"],
    "job": ["recipe", "shift"],
    "job_step": ["job", "recipe_step"],
    "batch": ["job"],
    "part": ["batch"],
    "part_scan": ["part", "station"],
    "inspection": ["part", "operator"],
    "defect": ["inspection", "part"],
    "maintenance": ["machine", "operator"],
    "spare_part": ["machine", "maintenance"],
}


def tables(references, optional=(), plain_columns=lambda name: 2):
    metadata = MetaData()
    for name, parents in references.items():
        keys = [
            Column(f"{parent}_{index}", ForeignKey(f"{parent}.id"), nullable=(name, parent) in optional)
            for index, parent in enumerate(parents)
        ]
        plain = [Column(f"value_{index}", Float) for index in range(plain_columns(name))]
        Table(name, metadata, Column("id", Integer, primary_key=True), Column("name", String(80)), *keys, *plain)
    return metadata


def scattered(seed, count, most_references):
    """A schema without any sense: circles, self references, several references to one table."""
    chance = random.Random(seed)
    names = [f"table_{index}" for index in range(count)]
    references = {
        name: [
            names[chance.randrange(index + 1 if chance.random() < 0.8 else count)]
            for _ in range(chance.randint(0, most_references))
        ]
        for index, name in enumerate(names)
    }
    optional = {(name, parent) for name, parents in references.items() for parent in parents if chance.random() < 0.5}
    return tables(references, optional, lambda name: chance.randint(0, 6))


SCHEMAS = {
    "one table": lambda: tables({"counter": []}),
    "a factory of 25 tables": lambda: tables(FACTORY),
    "a table that refers to itself twice": lambda: tables({"node": ["node", "node"]}, {("node", "node")}),
    "two tables that refer to each other": lambda: tables({"a": ["b", "b"], "b": ["a"]}, {("a", "b")}),
    "a circle": lambda: tables({"a": ["b"], "b": ["c"], "c": ["d"], "d": ["a"]}),
    "four references to one table": lambda: tables({"move": ["place"] * 4, "place": []}),
    "everything refers to the operator": lambda: tables(
        {"operator": [], **{f"thing_{index}": ["operator", "operator"] for index in range(40)}},
    ),
    "one table refers to everything": lambda: tables(
        {"fact": [f"list_{index}" for index in range(25)], **{f"list_{index}": [] for index in range(25)}},
    ),
    "many that stand alone": lambda: tables(
        {f"setting_{index}": [] for index in range(30)}, (), lambda name: len(name)
    ),
    **{f"scattered {seed}": lambda seed=seed: scattered(seed, 6 + seed * 2, 4) for seed in range(0, 12, 2)},
    "lines that change places": lambda: scattered(88, 6, 5),
    "60 scattered tables": lambda: scattered(60, 60, 2),
}


@pytest.fixture(params=SCHEMAS)
def picture(request, draw):
    return draw(SCHEMAS[request.param]())


def test_boxes_stand_apart_and_inside_the_picture(picture):
    boxes = picture.boxes.values()
    for box in boxes:
        assert 20 <= box.left < box.right <= picture.width - 20
        assert 20 <= box.top < box.bottom <= picture.height - 20
    for one, other in combinations(boxes, 2):
        gap_x = max(one.left, other.left) - min(one.right, other.right)
        gap_y = max(one.top, other.top) - min(one.bottom, other.bottom)
        assert max(gap_x, gap_y) >= 20, (one.id, other.id)


def test_lines_go_around_boxes(picture):
    for meaning, (x1, y1), (x2, y2) in picture.segments:
        assert x1 == x2 or y1 == y2
        assert 0 < min(x1, x2) <= max(x1, x2) < picture.width
        assert 0 < min(y1, y2) <= max(y1, y2) < picture.height
        for box in picture.boxes.values():
            touches_x = min(x1, x2) < box.right and max(x1, x2) > box.left
            touches_y = min(y1, y2) < box.bottom and max(y1, y2) > box.top
            assert not (touches_x and touches_y), (meaning, box.id)


def test_lines_begin_and_end_at_the_rows_of_their_columns(picture):
    assert len(picture.lines) == sum("Refers to" in tip for box in picture.boxes.values() for tip in box.tooltips)
    for meaning, points in picture.lines.items():
        for (x, y), end in zip((points[0], points[-1]), meaning.split(": ")[0].split(" → "), strict=True):
            table, column = end.split(".")
            box = picture.boxes[table]
            row = [name for *_, name, _ in box.rows].index(column)
            assert x in (box.left, box.right)
            assert abs(y - (box.top + 32 + 24 * row + 12)) < 12


def test_lines_that_end_elsewhere_never_run_on_top_of_each_other(picture):
    def end_of(meaning):
        line, cardinality = meaning.split(": ")
        return line.split(" → ")[1], cardinality.split(" to ")[1]

    for (one, *a), (other, *b) in combinations(picture.segments, 2):
        if end_of(one) == end_of(other):
            continue
        for along, across in ((0, 1), (1, 0)):
            flat = a[0][across] == a[1][across] and b[0][across] == b[1][across]
            if flat and abs(a[0][across] - b[0][across]) < 3:
                low = max(min(a[0][along], a[1][along]), min(b[0][along], b[1][along]))
                high = min(max(a[0][along], a[1][along]), max(b[0][along], b[1][along]))
                assert high <= low, (one, other)


@pytest.mark.parametrize(
    ("text", "width", "bold_width"),
    [
        ("station_id", 63.1, 71.8),
        ("WWWWWWWWWW", 128.5, 143.4),
        ("Illinois", 41.2, 48.6),
        ("JJJJJJJJ", 52.0, 57.8),
        ("fill_volume_ml", 92.9, 103.0),
        ("Größenmaß", 76.3, 85.1),
        ("МАШИНА", 62.4, 70.9),
        ("decimal(8,2)?", 89.0, 99.5),
    ],
)
def test_text_is_never_wider_than_estimated(text, width, bold_width):
    """The widths are those of the wider one of DejaVu Sans and Liberation Sans (as Arial), measured at 13 pixels."""
    assert width <= text_width(text, 13) < 1.6 * width
    assert bold_width <= text_width(text, 13, bold=True) < 1.6 * bold_width


def check_that_text_fits(picture):
    for box in picture.boxes.values():
        assert box.texts
        width, height = box.right - box.left, box.bottom - box.top
        for text in box.texts:
            room = text_width(text.text, text.size, bold=text.bold)
            left = text.x - room if text.right_aligned else text.x
            assert 0 < left <= left + room < width, text
            assert 0 < text.y < height
        for one, other in combinations(box.texts, 2):
            if one.y == other.y:
                name, kind = sorted((one, other), key=lambda text: text.right_aligned)
                name_end = name.x + text_width(name.text, name.size, bold=name.bold)
                assert name_end < kind.x - text_width(kind.text, kind.size)


def test_text_stays_inside_its_box_and_apart_from_other_text(picture):
    check_that_text_fits(picture)


def test_text_of_any_script_and_length_stays_inside_its_box(draw, hostile):
    picture = draw(hostile)
    check_that_text_fits(picture)
    assert picture.boxes["a" * 200].texts[0].text.startswith("aaaaaaaaaa")
    assert picture.boxes["a" * 200].texts[0].text.endswith("…")
    assert max(box.right - box.left for box in picture.boxes.values()) < 650


def test_few_lines_cross_in_a_factory_of_25_tables(draw):
    picture = draw(SCHEMAS["a factory of 25 tables"]())
    upright = [(m, x, *sorted((y1, y2))) for m, (x, y1), (x2, y2) in picture.segments if x == x2]
    level = [(m, y, *sorted((x1, x2))) for m, (x1, y), (x2, y2) in picture.segments if y == y2]
    # Lines with the same end share their way, so a crossing counts once.
    crossings = {
        (x, y)
        for one, x, top, bottom in upright
        for other, y, left, right in level
        if one.split(" → ")[1] != other.split(" → ")[1] and top < y < bottom and left < x < right
    }
    assert len(crossings) <= 17


def test_a_composite_foreign_key_is_one_line(draw):
    metadata = MetaData()
    Table("line", metadata, Column("site", Integer, primary_key=True), Column("number", Integer, primary_key=True))
    Table(
        "cell",
        metadata,
        Column("id", Integer, primary_key=True),
        Column("line_site", Integer, nullable=False),
        Column("line_number", Integer, unique=True),
        Column("deleted_at", DateTime),
        ForeignKeyConstraint(["line_site", "line_number"], ["line.site", "line.number"]),
    )
    assert list(draw(metadata).lines) == ["cell.line_site, line_number → line.site, number: zero or one to zero or one"]


def test_tables_that_stand_alone_fill_the_page_in_rows_and_columns(draw):
    picture = draw(SCHEMAS["many that stand alone"]())
    assert len({box.left for box in picture.boxes.values()}) > 3
    assert len({box.top for box in picture.boxes.values()}) > 3
    assert 0.5 < picture.width / picture.height < 2.5


def test_a_table_with_many_children_does_not_make_an_endless_column(draw):
    picture = draw(SCHEMAS["everything refers to the operator"]())
    assert 0.5 < picture.width / picture.height < 3
