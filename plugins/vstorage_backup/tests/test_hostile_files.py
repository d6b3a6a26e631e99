"""Files that are no backups, or bad ones: each is refused with a sentence, and nothing is changed."""

import gzip
import io
import random
import sqlite3
import zipfile
from contextlib import closing

import pytest
from models import Counter, Member, Sample, Team, User

from vstorage_core import ImportRefused, ModelAccessor

HUGE_JSON = "[" * 5000 + "]" * 5000


def sql(*statements):
    """A file that somebody changed with these statements."""

    def change(path):
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA writable_schema = ON")
            for statement in statements:
                connection.execute(statement)

    return change


def bytes_at(position, value):
    def change(path):
        data = bytearray(path.read_bytes())
        data[position : position + len(value)] = value
        path.write_bytes(data)

    return change


def replaced_by(data):
    return lambda path: path.write_bytes(data() if callable(data) else data)


def cut_to(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def in_use(path):
    # A copy of a database in use, without its write-ahead log.
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")


def utf16(path):
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA encoding = 'UTF-16'")
        connection.execute("CREATE TABLE users (id)")


def zipped():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("users.csv", "id")
    return stream.getvalue()


def same_row_number_twice(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("INSERT INTO team (id, name) VALUES (2, 'b')")
        [(root,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'team'")
        [(page_size,)] = connection.execute("PRAGMA page_size")
    data = bytearray(path.read_bytes())
    start = (root - 1) * page_size
    # The second cell pointer of the leaf; its cell begins with a length and the row number, of a byte each.
    cell = start + int.from_bytes(data[start + 10 : start + 12], "big")
    assert data[cell + 1] == 2
    data[cell + 1] = 1
    path.write_bytes(data)


def broken_index(path):
    # An index that lacks a row: only the full check sees it.
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        root = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'ix_users_deleted_at'").fetchone()[0]
        page_size = connection.execute("PRAGMA page_size").fetchone()[0]
    data = bytearray(path.read_bytes())
    start = (root - 1) * page_size
    data[start + 3 : start + 5] = b"\0\0"  # number of cells
    path.write_bytes(data)


HOSTILE = {
    "empty": (replaced_by(b""), "the file is empty"),
    "text": (replaced_by(b"Dear engineer,\n" * 100), "is not an SQLite database, or it is encrypted"),
    "encrypted": (replaced_by(lambda: random.Random(1).randbytes(20000)), "not an SQLite database, or it is encrypted"),
    "zip": (replaced_by(zipped), "a ZIP archive; a CSV export is imported with the importer csv"),
    "gzip": (replaced_by(lambda: gzip.compress(b"x")), "compressed with gzip; unpack it first"),
    "only the magic": (replaced_by(b"SQLite format 3\0"), "cut off in its first 100 bytes"),
    "only the header": (lambda path: path.write_bytes(path.read_bytes()[:100]), "the file is cut off"),
    "half": (cut_to(0.5), "the file is cut off: it has .* bytes and its header says"),
    "nearly whole": (cut_to(0.999), "the file is cut off"),
    "longer": (lambda path: path.write_bytes(path.read_bytes() + b"x" * 4096), "longer than it should be"),
    "page size 3": (bytes_at(16, b"\0\3"), "impossible page size"),
    "copied while in use": (in_use, "a copy of a database in use.*ends in -wal.*vstorage export backup"),
    "UTF-16": (utf16, "stored as UTF-16"),
    "schema overwritten": (bytes_at(100, b"\xff" * 40), "damaged"),
    "page overwritten": (bytes_at(8192, b"\xff" * 4096), "damaged"),
    "schema without SQL": (sql("UPDATE sqlite_master SET sql = 'CREATE TABLE' WHERE name = 'users'"), "damaged"),
    "trigger": (
        sql("CREATE TRIGGER evil AFTER INSERT ON users BEGIN DELETE FROM auditlog; END"),
        "contains the trigger 'evil'",
    ),
    "view": (sql("CREATE VIEW evil AS SELECT 1"), "contains the view 'evil'"),
    "view instead of a table": (
        sql("ALTER TABLE users RENAME TO real", "CREATE VIEW users AS SELECT * FROM real"),
        "contains the view 'users'",
    ),
    "virtual table": (sql("CREATE VIRTUAL TABLE evil USING fts5(x)"), "contains the virtual table 'evil'"),
    "virtual table instead of a table": (
        sql("DROP TABLE users", "CREATE VIRTUAL TABLE users USING fts5(id, name, email, age, deleted_at)"),
        "contains the virtual table 'users'",
    ),
    "computed column": (
        sql(
            "DROP TABLE counter",
            "CREATE TABLE counter (id INTEGER PRIMARY KEY, value INTEGER AS (id * 2) STORED)",
        ),
        "table counter of the file computes value",
    ),
    "another application": (
        lambda path: (path.unlink(), sql("CREATE TABLE invoice (id)")(path)),
        "of another application: it has none of our tables",
    ),
    "no tables": (
        lambda path: (path.unlink(), sql("CREATE TABLE a (b)", "DROP TABLE a")(path)),
        "of another application: it has none of our tables",
    ),
    "missing table": (sql("DROP TABLE counter"), "counter is missing in the backup"),
    "unknown column": (sql("ALTER TABLE users ADD COLUMN admin"), r"users\.admin is unknown to this application"),
    "text in a number": (
        sql("UPDATE counter SET value = 'many'"),
        r"counter\.value holds text, not a whole number",
    ),
    "number in a text": (
        sql("DROP TABLE team", "CREATE TABLE team (id INTEGER PRIMARY KEY, name)", "INSERT INTO team VALUES (1, 5)"),
        r"team\.name holds a whole number, not text",
    ),
    "bytes in a text": (sql("UPDATE users SET name = x'ff'"), r"users\.name holds bytes or broken text, not text"),
    "text that is not UTF-8": (
        sql("UPDATE users SET name = CAST(x'ff41' AS TEXT)"),
        r"users\.name holds bytes or broken text, not text",
    ),
    "NUL in a text": (sql("UPDATE users SET name = 'a' || char(0)"), r"users\.name is not text without NUL"),
    "NULL where a value is needed": (
        sql("DROP TABLE team", "CREATE TABLE team (id INTEGER PRIMARY KEY, name)", "INSERT INTO team VALUES (1, NULL)"),
        r"team\.name holds nothing, not text",
    ),
    "infinite number": (sql("UPDATE sample SET ratio = 9e999"), r"sample\.ratio is not a finite number"),
    "neither true nor false": (sql("UPDATE sample SET flag = 7"), r"sample\.flag is not 0 or 1"),
    "no date": (sql("UPDATE sample SET day = '2026-02-31'"), r"sample\.day is not a date"),
    "no time": (sql("UPDATE sample SET clock = 'noon'"), r"sample\.clock is not a time of day"),
    "time spelled otherwise": (
        sql("UPDATE sample SET moment = '2026-02-01T10:00:00Z'"),
        r"sample\.moment is not a date and time",
    ),
    "no UUID": (sql("UPDATE sample SET token = 'x'"), r"sample\.token is not a UUID"),
    "unknown colour": (sql("UPDATE sample SET color = 'GREEN'"), r"sample\.color is not one of RED, BLUE"),
    "no decimal": (sql("UPDATE sample SET price = 'dear'"), r"sample\.price is not a decimal number"),
    "no JSON": (sql("UPDATE sample SET settings = '{'"), r"sample\.settings is not JSON"),
    "JSON with NaN": (sql("UPDATE sample SET settings = '[NaN]'"), r"sample\.settings is not JSON"),
    "JSON with half a letter": (sql(r"""UPDATE sample SET settings = '["\ud800"]'"""), r"sample\.settings is not JSON"),
    "JSON too deep": (sql(f"UPDATE sample SET settings = '{HUGE_JSON}'"), r"sample\.settings is not JSON"),
    "trail with no JSON": (sql("UPDATE auditlog SET after = 'x'"), r"auditlog\.after is not JSON"),
    "trail with no time": (sql("UPDATE auditlog SET timestamp = 'yesterday'"), r"auditlog\.timestamp is not a date"),
    "broken reference": (sql("UPDATE member SET team_id = 99"), r"member\.team_id refers to team that the"),
    "no keys left": (
        sql("UPDATE sqlite_sequence SET seq = 9223372036854775807 WHERE name = 'counter'"),
        r"counter\.id has no keys left",
    ),
    "column whose name is no text": (
        sql("UPDATE sqlite_master SET sql = CAST(x'435245415445205441424c45207465616d2028696420494e54454745522c20ff29'"
            " AS TEXT) WHERE name = 'team'"),
        "damaged: its list of tables holds values that are no text",
    ),
    "same key twice": (
        sql(
            "ALTER TABLE device RENAME TO old",
            "CREATE TABLE device (serial TEXT, label TEXT)",
            "DROP TABLE old",
            "INSERT INTO device VALUES ('a', ''), ('a', '')",
        ),
        r"device\.serial must be unique",
    ),
    "same number twice as a key": (
        sql(
            "CREATE TABLE copy (id INTEGER, name TEXT)",
            "INSERT INTO copy SELECT id, name FROM team",
            "INSERT INTO copy SELECT id, name FROM team",
            "DROP TABLE team",
            "ALTER TABLE copy RENAME TO team",
        ),
        r"team\.id must be unique",
    ),
    "same row number twice": (same_row_number_twice, "damaged: SQLite's quick_check finds errors"),
    "same address twice": (
        sql(
            "CREATE TABLE copy (id INTEGER PRIMARY KEY, name TEXT, email TEXT, age INTEGER, deleted_at TEXT)",
            "INSERT INTO copy SELECT 1, name, email, age, deleted_at FROM users",
            "INSERT INTO copy SELECT 2, name, email, age, deleted_at FROM users",
            "DROP TABLE users",
            "ALTER TABLE copy RENAME TO users",
        ),
        r"users\.email must be unique",
    ),
}  # fmt: skip


@pytest.fixture
def filled(machine):
    ModelAccessor(User, "users", storage=machine).insert(User(name="ana", email="ana@x"))
    ModelAccessor(Counter, "counters", storage=machine).insert(Counter(value=1))
    team = ModelAccessor(Team, "teams", storage=machine).insert(Team(name="a"))
    ModelAccessor(Member, "members", storage=machine).insert(Member(name="m", team_id=team.id))
    ModelAccessor(Sample, "samples", storage=machine).insert(Sample(settings={"a": [1, 2]}))
    return machine


@pytest.fixture
def backup(filled, tmp_path):
    path = tmp_path / "backup.sqlite"
    filled.export("backup", path)
    # What is there now differs from the backup, so that a restore could not go unnoticed.
    ModelAccessor(User, "users", storage=filled).insert(User(name="ben", email="ben@x"))
    return path


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_with_a_sentence_and_nothing_is_changed(
    name, filled, backup, content, trail, temporary_files, tmp_path
):
    change, sentence = HOSTILE[name]
    change(backup)
    before = content(filled), trail(filled)

    with pytest.raises(ImportRefused, match=sentence):
        filled.import_("restore", backup)

    assert (content(filled), trail(filled)) == before
    assert temporary_files() == []
    assert list(tmp_path.glob("*-backups/*")) == []


def test_the_full_check_finds_a_damaged_index(filled, backup):
    broken_index(backup)
    with pytest.raises(ImportRefused, match="SQLite's integrity_check finds errors") as caught:
        filled.import_("restore", backup, integrity_check=True)
    assert "ix_users_deleted_at" in str(caught.value.details)


def test_findings_name_table_column_and_record(filled, backup):
    sql("UPDATE sample SET day = 'x', ratio = 'y'", "UPDATE member SET team_id = 99")(backup)
    report = filled.import_("restore", backup, dry_run=True)
    assert [(finding.table, finding.column, finding.record) for finding in report.invalid_values] == [
        ("sample", "ratio", "1"),
        ("sample", "day", "1"),
    ]
    assert report.refused_because.startswith("the backup holds a value that is not allowed: sample.ratio")
    sql("UPDATE sample SET day = NULL, ratio = 1")(backup)
    report = filled.import_("restore", backup, dry_run=True)
    assert [(finding.table, finding.column, finding.record) for finding in report.foreign_key_violations] == [
        ("member", "team_id", "1")
    ]


def flip_bits(path, seed, count):
    """Flips bits of the file at positions that depend on the seed alone."""
    rng = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(count):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)


def restore_bit_flipped(machine, backup, content, seeds):
    """Restores many damaged copies of the backup; tells how many were taken."""
    good = backup.read_bytes()
    taken = 0
    for seed in seeds:
        backup.write_bytes(good)
        flip_bits(backup, seed, 1 + seed % 8)
        before = content(machine)
        try:
            machine.import_("restore", backup)
            taken += 1
        except ImportRefused:
            assert content(machine) == before, seed
        # Whatever came in can be read by the models.
        for model in (User, Counter, Team, Member, Sample):
            ModelAccessor(model, "x", storage=machine).all(include_deleted=True)
        content(machine)
        with machine.snapshot() as connection:
            assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok", seed
            assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == [], seed
    return taken


def test_files_with_flipped_bits_break_nothing(filled, backup, content, temporary_files):
    taken = restore_bit_flipped(filled, backup, content, range(50))
    assert 0 < taken < 50  # a bit in unused space or in a value is no damage
    assert temporary_files() == []


@pytest.mark.soak
def test_many_files_with_flipped_bits_break_nothing(filled, backup, content):
    print("taken:", restore_bit_flipped(filled, backup, content, range(50, 450)), "of 400")
