"""Hand-written sqlite3 with its defaults: what the work costs at least in Python."""

from __future__ import annotations

import csv
import io
import json
import sqlite3
import zipfile
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from benchmarks.rows import FIELDS, Row, stored_time

_SCHEMA = """
CREATE TABLE IF NOT EXISTS users (
  id INTEGER PRIMARY KEY, name VARCHAR NOT NULL, email VARCHAR NOT NULL, quantity INTEGER NOT NULL,
  price FLOAT NOT NULL, active BOOLEAN NOT NULL, created_at DATETIME NOT NULL, notes VARCHAR NOT NULL,
  deleted_at DATETIME);
CREATE TABLE IF NOT EXISTS auditlog (
  id INTEGER PRIMARY KEY, timestamp DATETIME NOT NULL, component VARCHAR NOT NULL, record_id VARCHAR NOT NULL,
  operation VARCHAR NOT NULL, actor VARCHAR NOT NULL, before JSON, after JSON);
CREATE INDEX IF NOT EXISTS users_deleted_at ON users (deleted_at);
CREATE INDEX IF NOT EXISTS auditlog_timestamp ON auditlog (timestamp);
CREATE INDEX IF NOT EXISTS auditlog_component ON auditlog (component, timestamp, id);
CREATE INDEX IF NOT EXISTS auditlog_record ON auditlog (component, record_id, timestamp, id);
"""
_COLUMNS = f"id, {', '.join(FIELDS)}"
_INSERT = f"INSERT INTO users ({', '.join(FIELDS)}) VALUES ({', '.join('?' * len(FIELDS))})"
_INSERT_WITH_KEY = f"INSERT INTO users ({_COLUMNS}) VALUES (?{', ?' * len(FIELDS)})"
_UPDATE = f"UPDATE users SET {', '.join(f'{name} = ?' for name in FIELDS)} WHERE id = ?"
_AUDIT = (
    "INSERT INTO auditlog (timestamp, component, record_id, operation, actor, before, after)"
    " VALUES (?, 'users', ?, ?, 'bench', ?, ?)"
)
_encode = json.JSONEncoder(default=datetime.isoformat).encode


def _now() -> datetime:
    return datetime.now(timezone.utc)


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


def _load(row: tuple[Any, ...]) -> Row:
    key, name, email, quantity, price, active, created_at, notes, deleted_at = row
    return {
        "id": key, "name": name, "email": email, "quantity": quantity, "price": price, "active": bool(active),
        "created_at": _time(created_at), "notes": notes, "deleted_at": _time(deleted_at),
    }  # fmt: skip


def _bound(row: Row) -> tuple[Any, ...]:
    return (
        row["name"], row["email"], row["quantity"], row["price"], row["active"], stored_time(row["created_at"]),
        row["notes"], stored_time(row["deleted_at"]),
    )  # fmt: skip


class Contender:
    zone = timezone.utc

    def __init__(self, path: Path, durability: str | None = None) -> None:
        self._path = path
        self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._execute = self._connection.execute
        if durability:
            self._execute("PRAGMA journal_mode = WAL")
            self._execute(f"PRAGMA synchronous = {durability}")
        self._execute("PRAGMA foreign_keys = ON")

    def create_tables(self) -> None:
        self._connection.executescript(_SCHEMA)

    def close(self) -> None:
        self._connection.close()

    def _insert(self, row: Row) -> None:
        key = self._execute(_INSERT, _bound(row)).lastrowid
        self._execute(_AUDIT, (stored_time(_now()), key, "create", None, _encode({"id": key, **row})))

    def insert(self, row: Row) -> None:
        self.insert_in_one_transaction([row])

    def insert_in_one_transaction(self, rows: list[Row]) -> None:
        self._execute("BEGIN IMMEDIATE")
        for row in rows:
            self._insert(row)
        self._execute("COMMIT")

    def insert_many(self, rows: list[Row]) -> None:
        self._execute("BEGIN IMMEDIATE")
        first = (self._execute("SELECT max(id) FROM users").fetchone()[0] or 0) + 1
        now = stored_time(_now())
        self._connection.executemany(_INSERT_WITH_KEY, [(key, *_bound(row)) for key, row in enumerate(rows, first)])
        self._connection.executemany(
            _AUDIT, [(now, key, "create", None, _encode({"id": key, **row})) for key, row in enumerate(rows, first)]
        )
        self._execute("COMMIT")

    def get(self, key: int) -> Row | None:
        row = self._execute(f"SELECT {_COLUMNS} FROM users WHERE id = ?", (key,)).fetchone()
        return None if row is None or row[-1] is not None else _load(row)

    def all(self) -> list[Row]:
        return [_load(row) for row in self._execute(f"SELECT {_COLUMNS} FROM users WHERE deleted_at IS NULL")]

    def save(self, key: int, row: Row) -> None:
        self._execute("BEGIN IMMEDIATE")
        before = _load(self._execute(f"SELECT {_COLUMNS} FROM users WHERE id = ?", (key,)).fetchone())
        self._execute(_UPDATE, (*_bound(row), key))
        self._execute(_AUDIT, (stored_time(_now()), key, "update", _encode(before), _encode({"id": key, **row})))
        self._execute("COMMIT")

    def delete(self, key: int) -> None:
        self.delete_many([key])

    def delete_many(self, keys: list[int]) -> None:
        now = _now()
        self._execute("BEGIN IMMEDIATE")
        for start in range(0, len(keys), 500):
            chunk = keys[start : start + 500]
            places = ", ".join("?" * len(chunk))
            rows = [_load(row) for row in self._execute(f"SELECT {_COLUMNS} FROM users WHERE id IN ({places})", chunk)]
            self._execute(f"UPDATE users SET deleted_at = ? WHERE id IN ({places})", [stored_time(now), *chunk])
            self._connection.executemany(
                _AUDIT,
                [
                    (stored_time(now), row["id"], "soft_delete", _encode(row), _encode({**row, "deleted_at": now}))
                    for row in rows
                ],
            )
        self._execute("COMMIT")

    def audit_place(self, offset: int) -> Any:
        """Where the page that skips so many rows begins."""
        if not offset:
            return ("9999-12-31", 0)
        return self._execute(
            "SELECT timestamp, id FROM auditlog WHERE component = 'users' ORDER BY timestamp DESC, id DESC"
            " LIMIT 1 OFFSET ?",
            (offset - 1,),
        ).fetchone()

    def audit_page(self, place: Any) -> int:
        rows = self._execute(
            "SELECT id, timestamp, component, record_id, operation, actor, before, after FROM auditlog"
            " WHERE component = 'users' AND (timestamp, id) < (?, ?) ORDER BY timestamp DESC, id DESC LIMIT 100",
            place,
        )
        return len(
            [(*row[:6], row[6] and json.loads(row[6]), row[7] and json.loads(row[7])) for row in rows]
        )  # fmt: skip

    def export_csv(self, target: Path) -> None:
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for table in ("users", "auditlog"):
                rows = self._execute(f"SELECT * FROM {table}")
                with (
                    archive.open(f"{table}.csv", "w", force_zip64=True) as member,
                    io.TextIOWrapper(member, encoding="utf-8", newline="") as text,
                ):
                    writer = csv.writer(text)
                    writer.writerow(column[0] for column in rows.description)
                    writer.writerows(rows)

    def backup(self, target: Path) -> None:
        with closing(sqlite3.connect(target)) as copy:
            self._connection.backup(copy)

    def restore(self, source: Path) -> None:
        with closing(sqlite3.connect(source)) as copy:
            copy.backup(self._connection)
