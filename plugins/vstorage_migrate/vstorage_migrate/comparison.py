"""How Alembic compares the models with a database, so that it finds every difference and none that is no difference."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from alembic.autogenerate.api import AutogenContext
from alembic.runtime.migration import MigrationContext
from sqlalchemy import (
    Column,
    Connection,
    Dialect,
    Enum,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    String,
    TypeDecorator,
    UniqueConstraint,
    inspect,
)
from sqlalchemy.types import TypeEngine

from vstorage_core import Storage
from vstorage_core.audit import AUDIT_TABLE

ConstraintT = TypeVar("ConstraintT", UniqueConstraint, ForeignKeyConstraint)


def alembic_options(storage: Storage, connection: Connection) -> dict[str, Any]:
    """What to give Alembic's `context.configure` in the `env.py` of an application, beside the connection.

    Args:
        storage: Its models are compared.
        connection: To the storage's database.
    """
    is_sqlite = connection.dialect.name == "sqlite"
    return {
        "target_metadata": storage.metadata(),
        "include_object": _Scope(storage.metadata(), connection).includes,
        "compare_type": _type_differs,
        # Alembic's own comparison fails on quotes in a default, and on computed columns.
        "compare_server_default": False,
        "render_item": _render_type,
        "render_as_batch": is_sqlite,
        # Alembic does not trust the driver's transactions on SQLite; the storage begins them itself.
        "transactional_ddl": connection.dialect.name != "mysql",
    }


class _Scope:
    """Which tables, indexes and constraints are compared."""

    def __init__(self, metadata: Sequence[MetaData], connection: Connection) -> None:
        self._tables = {table.name: table for each in metadata for table in each.tables.values()}
        self._connection = connection
        self._inspector = inspect(connection)

    def includes(self, item: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
        """Alembic's `include_object`."""
        if kind == "table":
            # A table that no model has is somebody else's, and the core looks after an audit table that is there.
            is_foreign = reflected and compare_to is None
            return not is_foreign and not (name == AUDIT_TABLE.name and compare_to is not None)
        if self._connection.dialect.name != "sqlite" or compare_to is not None:
            return True
        # SQLite can add no constraint: a unique index stands for a unique constraint.
        if kind == "unique_constraint" and not reflected:
            indexes = self._inspector.get_indexes(item.table.name)
            return not any(index["unique"] and index["column_names"] == _names(item) for index in indexes)
        if kind == "index" and reflected and item.unique:
            wanted = [_names(constraint) for constraint in self._constraints(item.table.name, UniqueConstraint)]
            return _names(item) not in wanted
        # SQLAlchemy does not read the ON DELETE of a reference that came with a column; SQLite tells it.
        if kind == "foreign_key_constraint":
            met = self._met_references(item.table.name)
            return not any(_names(item) == _names(constraint) for constraint in met)
        return True

    def _constraints(self, table: str, kind: type[ConstraintT]) -> list[ConstraintT]:
        """Those of the model."""
        model = self._tables.get(table)
        return [item for item in (model.constraints if model is not None else ()) if isinstance(item, kind)]

    def _met_references(self, table: str) -> list[ForeignKeyConstraint]:
        """The model's references that the SQLite table has as well."""
        found: dict[int, list[Any]] = {}
        quoted = self._connection.dialect.identifier_preparer.quote(table)
        for row in self._connection.exec_driver_sql(f"PRAGMA foreign_key_list({quoted})"):
            found.setdefault(row.id, []).append((row[3], row[2], row[4], row.on_update, row.on_delete))
        references = [sorted(parts) for parts in found.values()]
        return [
            constraint
            for constraint in self._constraints(table, ForeignKeyConstraint)
            if sorted(
                (
                    key.parent.name,
                    key.column.table.name,
                    key.column.name,
                    (key.onupdate or "NO ACTION").upper(),
                    (key.ondelete or "NO ACTION").upper(),
                )
                for key in constraint.elements
            )
            in references
        ]


def _names(item: Index | UniqueConstraint | ForeignKeyConstraint) -> list[str]:
    return [column.name for column in item.columns]


def _type_differs(
    context: MigrationContext,
    _found_column: Column[Any],
    _column: Column[Any],
    found: TypeEngine[Any],
    wanted: TypeEngine[Any],
) -> bool | None:
    """Whether the types of a column differ; None leaves it to Alembic."""
    plain = wanted.impl_instance if isinstance(wanted, TypeDecorator) else wanted
    if isinstance(found, Enum) and isinstance(plain, Enum):
        return set(found.enums) != set(plain.enums)
    if isinstance(plain, LargeBinary) and found.python_type is bytes:
        return False  # MariaDB keeps no length, but picks a type that is wide enough
    if context.dialect.name == "sqlite" and isinstance(found, String) and isinstance(plain, String):
        # It ignores the length of a text, so that a longer one needs no change.
        return False if plain.length is None or plain.length >= (found.length or 0) else None
    return None


_QUOTED = re.compile(r"'((?:[^']|'')*)'(?:::.*)?", re.DOTALL)
_NUMBER = re.compile(r"'?([-+]?\d+(?:\.\d+)?)'?(?:::.*)?")


def default_differs(dialect: Dialect, found: str | None, column: Column[Any]) -> bool:
    """Whether the server default of a column is another one than in the model, as far as it can be told.

    Only constants are compared: each database writes an expression in its own way. A default that only the database
    has is no difference: it helps an older program to go on, and this plugin itself puts it there.
    """
    constant = getattr(column.server_default, "arg", None)
    if not isinstance(constant, str):
        return False
    if found is None:
        return True
    text = found.strip()
    while text.startswith("(") and text.endswith(")"):
        text = text[1:-1].strip()
    number = _NUMBER.fullmatch(text)
    if number and _NUMBER.fullmatch(constant):
        return float(number[1]) != float(constant)
    quoted = _QUOTED.fullmatch(text)
    if quoted is None:
        return False
    unescaped = quoted[1].replace("''", "'")
    if dialect.name == "mysql":
        unescaped = unescaped.replace("\\\\", "\\")
    return unescaped != constant


def _render_type(kind: str, item: Any, context: AutogenContext) -> str | bool:
    """The source text of a column type in a revision, where Alembic's own would not run."""
    if kind != "type" or not type(item).__module__.startswith(("sqlmodel.", "vstorage_core.")):
        return False
    # As plain types of SQLAlchemy, so that a revision runs with any later release of ours.
    context.imports.add("import sqlalchemy as sa")
    plain = item.load_dialect_impl(context.dialect)
    return f"sa.{plain!r}"
