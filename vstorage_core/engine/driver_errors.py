"""From the drivers' exceptions to ours: without SQL, parameters or values in their texts."""

from __future__ import annotations

import re
import sqlite3

from sqlalchemy import Index, Table, UniqueConstraint
from sqlalchemy.engine import ExceptionContext

from vstorage_core.errors import (
    ConfigurationError,
    ConstraintKind,
    ConstraintViolation,
    InvalidInput,
    StorageBusy,
    StorageError,
    StorageUnavailable,
    TransactionConflict,
)


def raise_ours(context: ExceptionContext) -> None:
    """SQLAlchemy event: raise our exception in place of the driver's, without SQL or parameters in its message."""
    if context.is_pre_ping:
        return  # the pool wants to know whether it must reconnect
    error = context.original_exception
    compiled = getattr(context.execution_context, "compiled", None)
    ours = _translate(error, getattr(getattr(compiled, "statement", None), "table", None))
    if context.connection is not None and (context.is_disconnect or _is_unreachable(error)):
        # psycopg may hear that the socket is broken before its connection does; such a one cannot even be rolled back.
        context.is_disconnect = True
        ours = StorageUnavailable(f"the connection to the database was lost; {_IN_DOUBT}")
    elif getattr(error, "sqlstate", None) == _READS_ONLY or error.args[:1] in ((_NO_QUORUM,), (_COMMIT_FAILED,)):
        # The connection works and the server does not: the pool must look for another one.
        context.is_disconnect = True
    if isinstance(ours, TransactionConflict) and context.connection is not None:
        # MySQL has undone everything that the transaction did: whoever goes on would commit a half.
        context.connection.info["lost"] = ours
    if ours is not None:
        raise ours from error


def raise_translated(error: BaseException | None) -> None:
    """Raise our exception in place of the driver's, where no engine of SQLAlchemy's is between; else do nothing."""
    if isinstance(error, sqlite3.Error | OverflowError | UnicodeEncodeError):
        raise _translate(error) or error from error


class translated:  # a class, because a generator costs three times as much
    """`raise_translated` for a block."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        raise_translated(error)


def _translate(error: BaseException, table: Table | None = None) -> StorageError | None:
    if isinstance(error, StorageError):
        return error
    if isinstance(error, sqlite3.Error):
        return _translate_sqlite(error)
    if isinstance(error, OverflowError):
        return InvalidInput("a whole number is larger than the 64 bits that a database keeps")
    if isinstance(error, UnicodeEncodeError):
        return InvalidInput("a text contains characters that are not valid Unicode")
    if type(error).__module__.startswith("pymysql") and error.args and isinstance(error.args[0], int):
        return _translate_mysql(error, error.args[0], str(error.args[-1]), table)
    sqlstate = getattr(error, "sqlstate", None)
    if sqlstate is not None:
        return _translate_postgresql(error, sqlstate)
    if _is_unreachable(error):
        return StorageUnavailable("the database cannot be reached")
    return None


def _is_unreachable(error: BaseException) -> bool:
    """Whether the driver of a server says so by itself: the server would give a state or a number."""
    return (
        type(error).__name__ in ("OperationalError", "ConnectionTimeout")
        and not isinstance(error, sqlite3.Error)
        and getattr(error, "sqlstate", None) is None
        and not (error.args and isinstance(error.args[0], int))
    )


_SQLITE_CONSTRAINTS: dict[str, ConstraintKind] = {
    "UNIQUE": "unique",
    "FOREIGN KEY": "foreign_key",
    "NOT NULL": "not_null",
    "CHECK": "check",
}
_SQLITE_UNAVAILABLE = {
    "database or disk is full": "the disk is full",
    "disk I/O error": "the disk reports an input/output error",
    "attempt to write a readonly database": "the database is read-only here: its file or disk cannot be written,"
    " or the session only reads (write inside `with transaction():`)",
    "unable to open database file": "the database file cannot be opened",
    "database disk image is malformed": "the database file is damaged; restore a backup",
    "file is not a database": "the file is not an SQLite database",
}


def _translate_sqlite(error: sqlite3.Error) -> StorageError | None:
    # By text, because Python 3.10 does not tell SQLite's result codes; the texts are part of SQLite's interface.
    message = str(error)
    constraint = re.match(r"(UNIQUE|FOREIGN KEY|NOT NULL|CHECK) constraint failed(?:: (.*))?$", message, re.DOTALL)
    if constraint:
        kind = _SQLITE_CONSTRAINTS[constraint[1]]
        fields = [] if kind == "check" else [name.split(".")[-1] for name in (constraint[2] or "").split(", ") if name]
        # Of a rule without a name SQLite tells the SQL.
        return _violation(kind, fields, error, rule=constraint[2] if re.fullmatch(r"\w+", constraint[2] or "") else "")
    if "is locked" in message or "database is busy" in message:
        return StorageBusy("another process holds the database; try again")
    if message.startswith("no such table"):
        return ConfigurationError(
            f"{message}; create it with bootstrap(…, create_tables=True) or storage.create_tables()"
        )
    for text_, meaning in _SQLITE_UNAVAILABLE.items():
        if message.startswith(text_):
            return StorageUnavailable(meaning)
    return None


# What a standby says that is asked to write.
_READS_ONLY = "25006"
_IN_DOUBT = "if it was committing, look whether the change is stored"
_TOO_SLOW = (
    "the database was stopped at a statement that took too long; try again, or raise engine.statement_timeout_seconds"
)


def _translate_postgresql(error: BaseException, sqlstate: str) -> StorageError | None:
    diagnostics = getattr(error, "diag", None)
    # "Key (email)=(a@b) already exists.": the value must not leave the server, the column may.
    key = re.match(r"Key \(([^)]*)\)", getattr(diagnostics, "message_detail", None) or "")
    fields = [name.strip(' "') for name in key[1].split(",")] if key else []
    if sqlstate == "23505":
        return _violation("unique", fields, error)
    if sqlstate == "23503":
        return _violation("foreign_key", fields, error)
    if sqlstate == "23502":
        return _violation("not_null", [getattr(diagnostics, "column_name", None) or "?"], error)
    if sqlstate == "23514":
        return _violation("check", [], error, rule=getattr(diagnostics, "constraint_name", None) or "")
    if sqlstate == "42P01":
        return ConfigurationError("a table does not exist; create it with bootstrap() or storage.create_tables()")
    if sqlstate in ("40001", "40P01"):
        return TransactionConflict("other transactions stood in the way; try again")
    if sqlstate == "55P03":
        return StorageBusy("another transaction holds the record; try again")
    if sqlstate == "57014":
        return StorageBusy(_TOO_SLOW)
    if sqlstate == _READS_ONLY:
        return StorageUnavailable(
            "the database server is a standby, which only reads; name the primary, or all hosts, in the URL"
        )
    if sqlstate.startswith("22"):
        return InvalidInput("the database refuses a value: it does not fit its column")
    if sqlstate[:2] == "28" or sqlstate == "3D000":
        return StorageUnavailable("the database server does not let us in: user, password or database name is wrong")
    if sqlstate[:2] in ("08", "53", "57", "58"):
        return StorageUnavailable("the database server cannot do this now")
    return None


# What a node of a Galera cluster says that has lost the others.
_NO_QUORUM, _COMMIT_FAILED = 1047, 1180
_MYSQL_CONSTRAINTS: dict[int, ConstraintKind] = {
    1062: "unique",
    1451: "foreign_key",
    1452: "foreign_key",
    1048: "not_null",
    1364: "not_null",
    3819: "check",
    4025: "check",
}


def _translate_mysql(error: BaseException, number: int, message: str, table: Table | None) -> StorageError | None:
    if number in _MYSQL_CONSTRAINTS:
        kind = _MYSQL_CONSTRAINTS[number]
        named = re.search(r"for key '([^']*)'|(?:Column|Field) '([^']*)'|FOREIGN KEY \(`([^`]*)`\)", message)
        names = [name.split(".")[-1] for name in named.groups() if name] if named else []
        fields = _columns_of_key(names[0], table) if kind == "unique" and names else names
        rule = re.search(r"CONSTRAINT [`'](\w+)[`']", message, re.IGNORECASE)
        return _violation(kind, fields, error, rule=rule[1] if rule else "")
    # A deadlock takes the savepoints along, and SQLAlchemy's flush tries to go back to one.
    if number == 1213 or (number == 1305 and message.startswith("SAVEPOINT")):
        return TransactionConflict("other transactions stood in the way; try again")
    if number == 1205:
        return StorageBusy("another transaction holds the record; try again")
    if number == _COMMIT_FAILED:
        return StorageUnavailable(f"the database server is cut off from its cluster; {_IN_DOUBT}")
    if number in (1317, 1969, 3024):
        return StorageBusy(_TOO_SLOW)
    if number in (1264, 1366, 1406):
        return InvalidInput("the database refuses a value: it does not fit its column")
    if number in (1044, 1045, 1049):
        return StorageUnavailable("the database server does not let us in: user, password or database name is wrong")
    if number in (1021, 1040, _NO_QUORUM, 1053, 1114, 1290, 1927, 2002, 2003, 2006, 2013):
        return StorageUnavailable("the database server cannot do this now")
    return None


def _columns_of_key(name: str, table: Table | None) -> list[str]:
    """The columns of a key, which MySQL names by its index; none where the table does not know it."""
    if table is None:
        return []
    if name == "PRIMARY":
        return list(table.primary_key.columns.keys())
    for key in (*table.indexes, *table.constraints):
        if isinstance(key, Index | UniqueConstraint) and key.name == name:
            return [column.name for column in key.columns]
    # A unique column's index has the column's name.
    return [name] if name in table.columns else []


def _violation(kind: ConstraintKind, fields: list[str], error: BaseException, *, rule: str = "") -> ConstraintViolation:
    named = ", ".join(fields)
    message = {
        "unique": f"{named or 'a value'} is taken by another record",
        "foreign_key": f"{named or 'a reference'} points to a record that does not exist, or a record is still in use",
        "not_null": f"{named or 'a value'} is required",
        "check": f"the table's rule {rule} refuses the values" if rule else "a rule of the table refuses the values",
    }[kind]
    return ConstraintViolation(kind, fields, message, error)
