"""Closing a storage, and opening it again."""

from __future__ import annotations

import sqlite3

import pytest
from models import Counter

from vstorage_core import (
    ModelAccessor,
    Storage,
    TransactionError,
)


@pytest.fixture
def counters(storage: Storage) -> ModelAccessor[Counter]:
    return ModelAccessor(Counter, "counters", storage=storage)


def values(counters: ModelAccessor[Counter]) -> list[int]:
    return [counter.value for counter in counters.all()]


def test_a_closed_storage_opens_again_at_its_next_use(make_database, open_storage):
    storage = open_storage(make_database("sqlite"))
    counters = ModelAccessor(Counter, "counters", storage=storage)
    counters.insert(Counter(value=1))
    storage.close()
    storage.close()
    counters.insert(Counter(value=2))
    assert values(counters) == [1, 2]


def test_leaving_the_with_block_closes_every_connection(make_database):
    url = make_database("sqlite")
    with Storage(url, entry_points=[]) as storage:
        storage.create_tables()
        counters = ModelAccessor(Counter, "counters", storage=storage)
        counters.get(counters.insert(Counter()).id)
        with storage.transaction():
            counters.insert(Counter())
    assert is_alone(url)


def test_closing_while_somebody_reads_leaves_that_connection_to_the_reader(make_database, open_storage):
    url = make_database("sqlite")
    storage = open_storage(url)
    counters = ModelAccessor(Counter, "counters", storage=storage)
    counters.insert(Counter(value=7))
    with storage.row_reader() as cursor:
        cursor.execute("SELECT value FROM counter")
        storage.close()
        assert not is_alone(url)
        assert cursor.fetchone() == (7,)
    assert is_alone(url)
    assert values(counters) == [7]


def test_what_was_read_beside_a_close_is_closed_by_the_next_one(make_database, open_storage):
    url = make_database("sqlite")
    storage = open_storage(url)
    reader = storage.row_reader()  # as a thread that has seen the database open
    storage.close()
    with reader as cursor:
        assert cursor.execute("SELECT 7").fetchone() == (7,)
    storage.close()
    assert is_alone(url)


def is_alone(url: str) -> bool:
    """Whether nobody has the file open: only whoever is alone may leave the write-ahead log."""
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), timeout=0)
    try:
        return connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)
    except sqlite3.OperationalError:
        return False
    finally:
        connection.close()


def test_closing_inside_a_transaction_is_refused(storage, counters):
    with storage.transaction():
        counters.insert(Counter(value=1))
        with pytest.raises(TransactionError, match="cannot close while a session or transaction of it is open"):
            storage.close()
    assert values(counters) == [1]
