"""What it takes to bring the tables of a database up to the models, and what must be left to a person."""

from __future__ import annotations

import enum
import math
import re
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from alembic.autogenerate import produce_migrations
from alembic.operations import ops
from alembic.runtime.migration import MigrationContext
from sqlalchemy import (
    Column,
    ColumnDefault,
    Connection,
    DefaultClause,
    ForeignKey,
    Index,
    MetaData,
    Table,
    UniqueConstraint,
    func,
    inspect,
    literal,
    select,
)
from sqlalchemy.exc import CompileError
from sqlalchemy.schema import FetchedValue

from vstorage_core import Storage
from vstorage_migrate.comparison import alembic_options, default_differs

ALEMBIC_TABLE = "alembic_version"


@dataclass(frozen=True, kw_only=True)
class Step:
    """Something to add.

    Attributes:
        table: Name of the table.
        what: What is added to it, or `the table`.
        action: The table to create, or Alembic's operation.
    """

    table: str
    what: str
    action: Table | ops.AddColumnOp | ops.CreateIndexOp | ops.CreateUniqueConstraintOp = field(repr=False)

    def __str__(self) -> str:
        return f"{self.table}: add {self.what}"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A difference that only a person can resolve.

    Attributes:
        table: Name of the table.
        column: Name of the column, or None where it is not about one.
        difference: What is not as the model says.
        advice: What to do, where an Alembic revision is not the first thought; or empty.
    """

    table: str
    column: str | None
    difference: str
    advice: str = ""

    def __str__(self) -> str:
        place = self.table if self.column is None else f"{self.table}.{self.column}"
        return f"{place}: {self.difference}" + (f"; {self.advice}" if self.advice else "")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a database differs from the models. Its text is for people.

    Attributes:
        steps: What can be added.
        refusals: What cannot be done automatically; while there is one, nothing is.
        has_own_alembic: Whether the database has revisions of an Alembic directory, which then makes all changes.
    """

    steps: tuple[Step, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    has_own_alembic: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether the database is as the models say."""
        return not self.steps and not self.refusals

    @property
    def is_refused(self) -> bool:
        """Whether there is something to do that cannot be done automatically."""
        return bool(self.refusals) or (self.has_own_alembic and not self.is_empty)

    @property
    def alembic_command(self) -> str:
        """The shell command that drafts a revision for all of it."""
        tables = dict.fromkeys([refusal.table for refusal in self.refusals] + [step.table for step in self.steps])
        # A table's name may hold anything, and this is pasted into a shell.
        title = re.sub(r"[^\w, -]", "_", f"change {', '.join(tables)}")
        return f'alembic revision --autogenerate -m "{title}"'

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.is_empty:
            yield "Nothing to do: the tables are as the models say."
            return
        if self.refusals:
            yield "Needs a person:"
            yield from (f"  {refusal}" for refusal in self.refusals)
        if self.steps:
            yield "Would be added, were the rest not in the way:" if self.is_refused else "Will be added:"
            yield from (f"  {step}" for step in self.steps)
        if self.has_own_alembic:
            yield f"This database has an Alembic directory (table {ALEMBIC_TABLE}), which makes all changes:"
            yield f"  alembic upgrade head; if that is not enough: {self.alembic_command}"
        elif self.refusals:
            yield "Draft the change, read it, run it; README.md of vstorage-migrate tells how to set Alembic up:"
            yield f"  {self.alembic_command}"
            yield "  alembic upgrade head"


def plan(storage: Storage) -> Plan:
    """How the database differs from the models of the storage; changes nothing.

    Raises:
        StorageUnavailable: The database cannot be read.
    """
    with storage.reading_connection() as connection:
        return planned(storage, connection)


def planned(storage: Storage, connection: Connection) -> Plan:
    """`plan`, as the connection sees the database."""
    planner = _Planner(storage, connection)
    for metadata in storage.metadata():
        planner.compare(metadata)
    return Plan(
        steps=tuple(planner.steps), refusals=tuple(planner.refusals), has_own_alembic=ALEMBIC_TABLE in planner.existing
    )


class _Planner:
    def __init__(self, storage: Storage, connection: Connection) -> None:
        self._connection = connection
        self._dialect = connection.dialect
        self._inspector = inspect(connection)
        self.existing = set(self._inspector.get_table_names())
        self._context = MigrationContext.configure(connection, opts=alembic_options(storage, connection))
        self.steps: list[Step] = []
        self.refusals: list[Refusal] = []

    def compare(self, metadata: MetaData) -> None:
        with warnings.catch_warnings():
            # Of indexes over expressions, which SQLAlchemy cannot read from SQLite; README.md says so.
            warnings.filterwarnings("ignore", message=".*expression-based index")
            found = produce_migrations(self._context, metadata).upgrade_ops
        operations = list(_flat(found.ops if found is not None else ()))
        new = {operation.table_name for operation in operations if isinstance(operation, ops.CreateTableOp)}
        for table in metadata.sorted_tables:
            if table.name in new:
                self.steps.append(Step(table=table.name, what="the table", action=table))
            elif table.name in self.existing:
                self._compare_key(table)
                self._compare_defaults(table)
        added = {
            (operation.table_name, operation.column.name): metadata.tables[operation.table_name].columns[
                operation.column.name
            ]
            for operation in operations
            if isinstance(operation, ops.AddColumnOp)
        }
        for operation in operations:
            table_name = getattr(operation, "table_name", None) or getattr(operation, "source_table", None)
            # A new table comes with its indexes.
            if table_name is not None and table_name not in new:
                self._sort_in(operation, metadata.tables[table_name], added)

    def _sort_in(self, operation: Any, table: Table, added: dict[tuple[str, str], Column[Any]]) -> None:
        if isinstance(operation, ops.AddColumnOp):
            self._add_column(table.columns[operation.column.name])
        elif isinstance(operation, ops.CreateIndexOp):
            index = next(index for index in table.indexes if index.name == operation.index_name)
            self._add_unique(table, index, operation, added) if index.unique else self._add_index(table, operation)
        elif isinstance(operation, ops.CreateUniqueConstraintOp):
            self._add_unique(table, operation.to_constraint(), operation, added)
        elif isinstance(operation, ops.CreateForeignKeyOp):
            local = operation.local_cols
            if len(local) != 1 or (table.name, local[0]) not in added:
                self._refuse(table, local[0], f"does not refer to {operation.referent_table}, as the model says")
        elif isinstance(operation, ops.AlterColumnOp):
            self._refuse_alteration(operation, table)
        elif isinstance(operation, ops.DropColumnOp):
            self._refuse(
                table,
                operation.column_name,
                "the model has no such column",
                "if it was renamed, write op.alter_column(..., new_column_name=...) into the revision,"
                " or its values are lost",
            )
        elif isinstance(operation, ops.DropIndexOp):
            self._refuse(table, None, f"the model has no index {operation.index_name}, or another one of that name")
        elif isinstance(operation, ops.DropConstraintOp):
            name = operation.constraint_name or "without a name"
            self._refuse(table, None, f"the model has no {operation.constraint_type} constraint {name}, or another one")
        # What is left are comments, which change nothing.

    def _add_index(self, table: Table, operation: ops.CreateIndexOp) -> None:
        self.steps.append(Step(table=table.name, what=f"index {operation.index_name}", action=operation))

    def _add_column(self, column: Column[Any]) -> None:
        table = column.table
        problem = self._problem(column)
        if problem is not None:
            self._refuse(table, column.name, *problem)
            return
        default = column.server_default or _written_default(column)
        bare: Column[Any] = Column(column.name, column.type, nullable=column.nullable, server_default=default)
        for key in column.foreign_keys:
            bare.append_foreign_key(
                ForeignKey(
                    key.column,
                    ondelete=key.ondelete,
                    onupdate=key.onupdate,
                    deferrable=key.deferrable,
                    initially=key.initially,
                )
            )
        # In one statement, so that there is never the column without its reference; MySQL before 9 ignores it there.
        inline = self._dialect.name != "mysql" or bool(getattr(self._dialect, "is_mariadb", False))
        kind = column.type.compile(self._dialect)
        existing = "no value" if default is None else _default_text(default)
        self.steps.append(
            Step(
                table=table.name,
                what=f"column {column.name} {kind}; existing rows get {existing}",
                action=ops.AddColumnOp(table.name, bare, inline_references=inline),
            )
        )

    def _problem(self, column: Column[Any]) -> tuple[str, str] | None:
        """Why the column cannot be added to a table with rows, and the way out; None when it can."""
        if column.primary_key:
            return "is a new part of the key", ""
        if column.computed is not None or column.identity is not None:
            return "is a new column whose values the database makes", ""
        default = column.server_default or _written_default(column)
        if default is None:
            if column.nullable:
                return None
            what = "existing rows have no value" if column.default is None else "Python makes its default"
            return f"is new and required, and {what}", _HOW_TO_FILL
        try:
            text = self._default_sql(column, default)
        except (CompileError, NotImplementedError, TypeError, ValueError):
            return "is new, and its default cannot be written in SQL", _HOW_TO_FILL
        if column.foreign_keys:
            return "is a new reference with a default", "let it have none"
        if self._dialect.name == "sqlite" and text is not None and not _CONSTANT.fullmatch(text):
            return f"is new, and SQLite cannot add a column whose default is {text}", "give it a constant one"
        return None

    def _default_sql(self, column: Column[Any], default: FetchedValue | None) -> str | None:
        bare: Column[Any] = Column(column.name, column.type, server_default=default)
        return self._dialect.ddl_compiler(self._dialect, None).get_column_default_string(bare)  # type: ignore[arg-type]

    def _add_unique(
        self,
        table: Table,
        item: Index | UniqueConstraint,
        operation: ops.CreateIndexOp | ops.CreateUniqueConstraintOp,
        added: dict[tuple[str, str], Column[Any]],
    ) -> None:
        names = [column.name for column in item.columns]
        listed = ", ".join(names)
        new = [added[table.name, name] for name in names if (table.name, name) in added]
        duplicates = self._duplicates(table, item, new)
        if duplicates:
            self._refuse(
                table,
                names[0] if len(names) == 1 else None,
                f"{listed} must be unique, but {duplicates:,} existing rows repeat a value of another one",
                "change these rows first",
            )
            return
        if isinstance(operation, ops.CreateUniqueConstraintOp):
            # MySQL's own name for it, by which the core finds the field that an error is about.
            made_up = names[0] if self._dialect.name == "mysql" else f"uq_{table.name}_{'_'.join(names)}"[:63]
            name = str(item.name or made_up)
            if self._dialect.name == "sqlite":
                operation = ops.CreateIndexOp(name, table.name, list(names), unique=True)
            else:
                operation.constraint_name = name
        self.steps.append(Step(table=table.name, what=f"unique index over {listed}", action=operation))

    def _duplicates(self, table: Table, item: Index | UniqueConstraint, new: list[Column[Any]]) -> int:
        """How many rows would have to go."""
        if any(column.server_default is None and _written_default(column) is None for column in new):
            return 0  # no value is never a duplicate
        expressions: list[Any] = list(item.expressions) if isinstance(item, Index) else list(item.columns)
        constant = {column.name for column in new}  # the same value in all rows
        told_apart_by = [
            table.columns[each.name] if isinstance(each, Column) else each
            for each in expressions
            if not (isinstance(each, Column) and each.name in constant)
        ]
        rows = select(func.count().label("rows")).select_from(table)
        rows = rows.where(*(expression.is_not(None) for expression in told_apart_by))
        where = item.dialect_options[self._dialect.name].get("where") if isinstance(item, Index) else None
        if where is not None:
            rows = rows.where(where)
        groups = rows.group_by(*told_apart_by).subquery()
        repeated = select(func.sum(groups.c.rows - 1)).where(groups.c.rows > 1)
        return int(self._connection.scalar(repeated) or 0)

    def _compare_key(self, table: Table) -> None:
        # Alembic does not.
        found = self._inspector.get_pk_constraint(table.name)["constrained_columns"]
        wanted = [column.name for column in table.primary_key]
        if set(found) != set(wanted):
            self._refuse(
                table,
                None,
                f"the key is ({', '.join(found)}), in the model ({', '.join(wanted)})",
                "Alembic does not notice it: write the operations by hand",
            )

    def _compare_defaults(self, table: Table) -> None:
        for found in self._inspector.get_columns(table.name):
            column = table.columns.get(found["name"])
            if column is not None and default_differs(self._dialect, found["default"], column):
                self._refuse(table, column.name, f"has the default {found['default']}, not the model's")

    def _refuse_alteration(self, operation: ops.AlterColumnOp, table: Table) -> None:
        column = table.columns[operation.column_name]
        if operation.modify_type is not None and operation.existing_type is not None:
            found, wanted = (kind.compile(self._dialect) for kind in (operation.existing_type, operation.modify_type))
            if found == wanted:
                found, wanted = (
                    f"one of {', '.join(getattr(kind, 'enums', ()))}"
                    for kind in (operation.existing_type, operation.modify_type)
                )
            self._refuse(table, column.name, f"is {found}, in the model {wanted}")
        if operation.modify_nullable is not None:
            now, then = ("optional", "required") if operation.existing_nullable else ("required", "optional")
            self._refuse(table, column.name, f"is {now}, in the model {then}")

    def _refuse(self, table: Any, column: str | None, difference: str, advice: str = "") -> None:
        self.refusals.append(Refusal(table=table.name, column=column, difference=difference, advice=advice))


_HOW_TO_FILL = "let it be optional, or give it a server_default"
_CONSTANT = re.compile(r"[-+]?[\d.]+(?:e[-+]?\d+)?|'(?:[^']|'')*'|true|false|null", re.IGNORECASE | re.DOTALL)
_WRITABLE = (bool, int, float, Decimal, str, enum.Enum)


def _written_default(column: Column[Any]) -> DefaultClause | None:
    """The Python default as one of the database, for existing rows and older programs; None without a fixed one."""
    default = column.default
    if not isinstance(default, ColumnDefault) or not default.is_scalar or not isinstance(default.arg, _WRITABLE):
        return None
    if isinstance(default.arg, float | Decimal) and not math.isfinite(default.arg):
        return None
    return DefaultClause(literal(default.arg, column.type))


def _default_text(default: FetchedValue) -> str:
    argument = getattr(default, "arg", None)
    return str(getattr(argument, "effective_value", argument))


def _flat(operations: Iterable[Any]) -> Iterator[Any]:
    for operation in operations:
        if isinstance(operation, ops.OpContainer):
            yield from _flat(operation.ops)
        else:
            yield operation
