"""What SQLite is trusted with when values are checked: never more than Python allows."""

import sqlite3
import uuid
from contextlib import closing

import pytest
import sqlalchemy
from models import Sample, User
from sqlalchemy import Column

from vstorage_backup.columns import FileColumn, file_columns
from vstorage_core.audit import AUDIT_TABLE

MOMENT = "2026-02-28 23:59:59.999999"
VALUES = [
    *[None, 0, 1, 2, -1, 2**63 - 1, 0.0, 1.0, 0.5, -1.5e308, float("inf"), float("-inf")],
    *["", "a", "ä", "a\0", "\0", "0", "1", "a\U0010ffff", " ", "\n", "RED", "red"],
    *[b"", b"a", b"\xff", MOMENT.encode(), b"2026-02-28", uuid.uuid4().hex.encode()],
    *[MOMENT, f"{MOMENT}\0", f"{MOMENT}Z", f" {MOMENT}", MOMENT[:-1], f"{MOMENT}9", MOMENT[:19]],
    MOMENT.replace(" ", "T"),
    *[MOMENT.replace("-28", f"-{day}") for day in ("00", "29", "30", "31", "32")],
    *[MOMENT.replace("23:59:59", time) for time in ("24:00:00", "23:60:00", "23:59:60", "00:00:00")],
    *[MOMENT.replace("2026", year) for year in ("0000", "0001", "9999", "+026", "-001", "\uff11999")],
    *[f"{year}-{month:02}-{day:02}" for year in ("2023", "2024", "1900") for month in range(14) for day in range(33)],
    *["2026-02-28\0", "2026-02-28 ", "0000-01-01", "0001-01-01", "9999-12-31", "2026-2-28", "\uff12026-02-28"],
    *[uuid.UUID(int=5).hex, str(uuid.UUID(int=5)), "A" * 32, "f" * 32, "f" * 31, "f" * 33],
    *["f" * 32 + "\0", "f" * 31 + "ä"],
]  # fmt: skip
# Texts that are not UTF-8: half a letter, a stray half, a surrogate, an overlong NUL, and one in a time.
BROKEN = [b"\xc3", b"a\x80b", b"\xed\xa0\x80", b"\xc0\x80", MOMENT.encode()[:-1] + b"\xff", b"f" * 31 + b"\x80"]


class Shouted(sqlalchemy.TypeDecorator):
    """A type of an application that reads only some texts."""

    impl = sqlalchemy.Date
    cache_ok = True

    def process_result_value(self, value, dialect):
        raise ValueError("never")


OWN = [Shouted(), sqlalchemy.DateTime(timezone=True), sqlalchemy.PickleType()]
COLUMNS = [
    *file_columns([*Sample.__table__.columns, *User.__table__.columns, *AUDIT_TABLE.columns]),
    *(FileColumn(Column("own", kind)) for kind in OWN),
]


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: f"{column.column.table}.{column.name}")
def test_sqlite_lets_no_value_pass_that_python_refuses_and_knows_the_usual_ones(column):
    if column.sure is None:
        # Whose types and formats are not SQLite's.
        assert column.name in {"price", "clock", "color", "settings", "before", "after", "own"}
        return
    allowed = 0
    with closing(sqlite3.connect(":memory:")) as connection:
        # Without a type, so that every value stays what it is; a file may compare as it likes.
        name = f'"{column.name}"'
        connection.execute(f"CREATE TABLE t ({name} COLLATE NOCASE)")
        connection.executemany("INSERT INTO t VALUES (?)", [(value,) for value in VALUES])
        connection.executemany("INSERT INTO t VALUES (CAST(? AS TEXT))", [(value,) for value in BROKEN])
        connection.text_factory = lambda raw: raw if raw in BROKEN else raw.decode()
        for value, is_sure in connection.execute(f"SELECT {name}, ({column.sure}) IS TRUE FROM t"):
            if is_sure and not (column.is_text and (value in BROKEN or "\0" in str(value))):
                assert column.problem([value]) is None, value
                allowed += value is not None
    assert allowed
