"""What is drawn, as plain data: tables, their columns, and how they refer to each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy
from sqlalchemy import ForeignKeyConstraint, UniqueConstraint

from vstorage_core import InvalidInput, ModelAccessor, Storage
from vstorage_core.audit import AUDIT_TABLE
from vstorage_core.records import SOFT_DELETE_FIELD
from vstorage_diagram.type_names import enum_values, type_name

Mark = Literal["PK", "FK", "UQ"]
ParentEnd = Literal["exactly one", "zero or one"]
ChildEnd = Literal["zero or one", "zero or many"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        name: As the database calls it.
        type: In plain words, e.g. `text(40)`.
        marks: PK: (part of) the primary key. FK: refers to another table. UQ: unique by itself.
        nullable: Whether it may be empty.
        details: Sentences for whoever wants to know more, e.g. the values of an enum.
    """

    name: str
    type: str
    marks: tuple[Mark, ...]
    nullable: bool
    details: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Table:
    """One table; `summary` is the first line of the model's docstring, or empty."""

    name: str
    summary: str
    columns: tuple[Column, ...]

    @property
    def has_soft_delete(self) -> bool:
        """Whether its records are marked deleted rather than removed."""
        return any(column.name == SOFT_DELETE_FIELD for column in self.columns)


@dataclass(frozen=True, kw_only=True)
class Relation:
    """A foreign key.

    Attributes:
        child: The table that has it.
        parent: The table it refers to.
        child_end: How many records of the child may refer to one of the parent.
        parent_end: How many records of the parent one of the child refers to.
    """

    child: str
    child_columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...]
    child_end: ChildEnd
    parent_end: ParentEnd

    def __str__(self) -> str:
        return f"{self.child}.{', '.join(self.child_columns)} → {self.parent}.{', '.join(self.parent_columns)}"


@dataclass(frozen=True, kw_only=True)
class Schema:
    """The tables to draw, and the relations between them."""

    tables: tuple[Table, ...]
    relations: tuple[Relation, ...]


def read_schema(storage: Storage, names: Sequence[str] | None = None, *, audit: bool = False) -> Schema:
    """The tables of the storage's models.

    Args:
        storage: Whose tables.
        names: Only these; default: all.
        audit: Whether the audit trail's table counts where it is not named.

    Raises:
        InvalidInput: A name is not that of a table.
        StorageUnavailable: The database cannot be asked now.
    """
    # Models with a metadata of their own may map one table twice.
    known = {table.name: table for table in reversed(storage.tables())}
    tables = [known[name] for name in reversed(known)]
    if names is not None:
        unknown = sorted(set(names) - set(known))
        if unknown:
            there_are = ", ".join(sorted(known)) or "none"
            raise InvalidInput(f"there is no table {', '.join(unknown)}; the tables are {there_are}")
        tables = [table for table in tables if table.name in names]
    elif not audit:
        tables = [table for table in tables if table is not AUDIT_TABLE]
    return describe(tables, storage.accessors)


def describe(tables: Sequence[sqlalchemy.Table], accessors: Iterable[ModelAccessor[Any]] = ()) -> Schema:
    """These tables as what is drawn; the models of `accessors` say in their own words what the tables are for."""
    models = {accessor.record.mapper.local_table: accessor.model for accessor in accessors}
    drawn = {table.name for table in tables}
    return Schema(
        tables=tuple(_table(table, models.get(table)) for table in tables),
        relations=tuple(
            _relation(table, constraint)
            for table in tables
            for constraint in _foreign_keys(table)
            if _parent(constraint).name in drawn
        ),
    )


def _table(table: sqlalchemy.Table, model: type[Any] | None) -> Table:
    docstring = (model.__doc__ if model is not None else None) or table.comment or ""
    fields = model.model_fields if model is not None else {}
    unique = _unique_keys(table)
    references: dict[str, list[str]] = {}
    for constraint in _foreign_keys(table):
        for key in constraint.elements:
            references.setdefault(key.parent.name, []).append(f"{key.column.table.name}.{key.column.name}")
    columns = []
    for column in table.columns:
        marks: list[Mark] = []
        if column.primary_key:
            marks.append("PK")
        if column.name in references:
            marks.append("FK")
        if {column.name} in unique[1:]:
            marks.append("UQ")
        details = [f"One of {', '.join(values)}"] if (values := enum_values(column.type)) else []
        details += [f"Refers to {', '.join(references[column.name])}"] if column.name in references else []
        details += [
            f"Unique together with {', '.join(sorted(key - {column.name}))}"
            for key in unique[1:]
            if len(key) > 1 and column.name in key
        ]
        field = fields.get(column.key)
        description = (field.description if field is not None else None) or column.comment
        details += [" ".join(description.split())] if description else []
        columns.append(
            Column(
                name=column.name,
                type=type_name(column.type),
                marks=tuple(marks),
                nullable=bool(column.nullable),
                details=tuple(details),
            )
        )
    summary = docstring.strip().partition("\n\n")[0]
    return Table(name=table.name, summary=" ".join(summary.split()), columns=tuple(columns))


def _relation(table: sqlalchemy.Table, constraint: ForeignKeyConstraint) -> Relation:
    columns = [key.parent for key in constraint.elements]
    names = {column.name for column in columns}
    return Relation(
        child=table.name,
        child_columns=tuple(column.name for column in columns),
        parent=_parent(constraint).name,
        parent_columns=tuple(key.column.name for key in constraint.elements),
        child_end="zero or one" if any(key and key <= names for key in _unique_keys(table)) else "zero or many",
        parent_end="zero or one" if any(column.nullable for column in columns) else "exactly one",
    )


def _parent(constraint: ForeignKeyConstraint) -> sqlalchemy.Table:
    return constraint.elements[0].column.table


def _foreign_keys(table: sqlalchemy.Table) -> list[ForeignKeyConstraint]:
    """In the order of their columns; SQLAlchemy keeps a set."""
    position = {column: index for index, column in enumerate(table.columns)}
    return sorted(
        table.foreign_key_constraints,
        key=lambda constraint: (
            [position[key.parent] for key in constraint.elements],
            [key.target_fullname for key in constraint.elements],
        ),
    )


def _unique_keys(table: sqlalchemy.Table) -> list[set[str]]:
    """Columns whose values are unique together; the first is the primary key."""
    others = [
        {column.name for column in constraint.columns}
        for constraint in table.constraints
        if isinstance(constraint, UniqueConstraint)
    ]
    others += [
        {column.name for column in index.columns}
        for index in table.indexes
        # A partial index or one over expressions says nothing about whole columns.
        if index.unique
        and len(index.columns) == len(index.expressions)
        and not any(name.endswith("_where") and value is not None for name, value in index.dialect_kwargs.items())
    ]
    return [{column.name for column in table.primary_key}, *sorted(others, key=sorted)]
