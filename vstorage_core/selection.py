"""Which rows of which tables an export writes; the same options for every exporter of rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Column, ColumnElement, Select, Table, func, select
from sqlmodel import SQLModel

from vstorage_core.errors import InvalidInput
from vstorage_core.filters import condition_of_text
from vstorage_core.records import SOFT_DELETE_FIELD, record_type

if TYPE_CHECKING:
    from vstorage_core.storage import Storage


@dataclass(frozen=True, kw_only=True, eq=False)
class Selection:
    """Rows of one table.

    Attributes:
        table: Of the model.
        columns: Those to write, in this order.
        conditions: Hold for each of the rows.
        order_by: SQLAlchemy expressions; empty: by key.
    """

    table: Table
    columns: Sequence[Column[Any]]
    conditions: Sequence[ColumnElement[bool]] = ()
    order_by: Sequence[ColumnElement[Any]] = ()

    def select(self, *expressions: ColumnElement[Any]) -> Select[Any]:
        """The statement for the rows; of their columns, or of expressions over them."""
        statement = select(*(expressions or self.columns)).select_from(self.table).where(*self.conditions)
        return statement.order_by(*(self.order_by or self.table.primary_key.columns))

    def count(self) -> Select[Any]:
        """The statement for the number of the rows."""
        return select(func.count()).select_from(self.table).where(*self.conditions)


class SelectionOptions(BaseModel):
    """Options of an exporter that writes rows: inherit them, add your own."""

    model_config = ConfigDict(extra="forbid")

    tables: list[str] | None = Field(default=None, description="Names of the tables; default: all")
    where: list[str] = Field(
        default=[], description="Only these rows, e.g. users.age__gte=18; the operators are those of the API's lists"
    )
    deleted: bool = Field(default=True, description="Whether soft-deleted records are written too")

    def selections(self, storage: Storage) -> list[Selection]:
        """The chosen rows per table, referenced tables first.

        Raises:
            InvalidInput: There is no such table, or a filter cannot be; the message names what there is.
        """
        existing = storage.tables()
        chosen = existing if self.tables is None else _named(existing, self.tables)
        conditions: dict[str, list[ColumnElement[bool]]] = {table.name: [] for table in chosen}
        for text in self.where:
            name, condition = _parsed(storage, text, {table.name: table for table in chosen})
            conditions[name].append(condition)
        for table in chosen if not self.deleted else ():
            if SOFT_DELETE_FIELD in table.columns:
                conditions[table.name].append(table.columns[SOFT_DELETE_FIELD].is_(None))
        return [
            Selection(table=table, columns=tuple(table.columns), conditions=conditions[table.name]) for table in chosen
        ]


def _named(tables: Sequence[Table], names: Sequence[str]) -> list[Table]:
    known = [table.name for table in tables]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InvalidInput(f"there is no table {', '.join(unknown)}; the tables are {', '.join(known)}")
    return [table for table in tables if table.name in names]


def _parsed(storage: Storage, text: str, tables: Mapping[str, Table]) -> tuple[str, ColumnElement[bool]]:
    """Table and condition of e.g. `users.age__gte=18`; with a single table its name may be left out."""
    left, equals, value = text.partition("=")
    table, _, name = left.strip().rpartition(".")
    if not equals or not name:
        raise InvalidInput("a filter of `where` is written table.field__operator=value, e.g. users.age__gte=18")
    if not table and len(tables) == 1:
        [table] = tables
    if table not in tables:
        which = f"there is no table {table} in the export" if table else "it names no table"
        raise InvalidInput(f"where {left.strip()}: {which}; the exported tables are {', '.join(tables)}")
    columns, types = _fields_of(storage, tables[table])
    try:
        return table, condition_of_text(columns, types, name, value)
    except InvalidInput as error:
        raise InvalidInput(f"where {left.strip()}: {error}") from None


def _fields_of(storage: Storage, table: Table) -> tuple[Mapping[str, Column[Any]], Mapping[str, Any]]:
    """The table's columns and the types of their values, by the names that its model gives them."""
    models: list[type[SQLModel]] = [SQLModel, *(accessor.model for accessor in storage.accessors)]
    registries = {id(model._sa_registry): model._sa_registry for model in models}
    for registry in registries.values():
        for mapper in registry.mappers:
            if mapper.local_table is table and mapper.inherits is None:
                model: Any = mapper.class_
                record = record_type(model)
                fields = record.model.model_fields
                return record.columns, {name: fields[name].annotation for name in record.columns if name in fields}
    # Known from the database alone, e.g. to the command line without an application.
    return dict(table.columns), {name: _python_type(column) for name, column in table.columns.items()}


def _python_type(column: Column[Any]) -> Any:
    try:
        return column.type.python_type
    except NotImplementedError:
        return None
