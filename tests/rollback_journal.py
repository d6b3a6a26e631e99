"""SQLite where write-ahead logging cannot be set: files get a rollback journal, with SQLite's usual locks."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Engine, event


class _Connection(sqlite3.Connection):
    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        # What SQLite itself answers on files without shared memory: the mode stays what it is.
        return super().execute(sql.replace("journal_mode = WAL", "journal_mode"), *parameters)


@contextmanager
def without_log() -> Iterator[None]:
    """Connections that engines open inside the block cannot switch to write-ahead logging."""

    def connect(_dialect: Any, _record: Any, _arguments: Any, options: dict[str, Any]) -> None:
        options["factory"] = _Connection

    event.listen(Engine, "do_connect", connect)
    try:
        yield
    finally:
        event.remove(Engine, "do_connect", connect)
