"""The options that choose tables and rows, and exports of single tables, for any exporter."""

from __future__ import annotations

import io
import json
from datetime import date, datetime, timezone
from typing import Any, BinaryIO

import pytest
from models import Color, Counter, Member, Sample, Team, User
from pydantic import BaseModel, ConfigDict
from sqlalchemy import Column, DateTime, Integer, Table
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

from vstorage_core import (
    Exporter,
    InvalidInput,
    ModelAccessor,
    PluginConflictError,
    Selection,
    SelectionOptions,
    Storage,
    TableExporter,
    hookimpl,
    report_progress,
)


class Local(SQLModel, registry=registry()):
    """A model in a registry of its own."""


class Part(Local, table=True):
    id: int | None = Field(default=None, primary_key=True)
    weight: int


class RowsOptions(SelectionOptions):
    upper: bool = False


class TableOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    upper: bool = False


def write_rows(storage: Storage, stream: BinaryIO, options: RowsOptions) -> None:
    """What the exporter of a third party looks like."""
    with storage.snapshot() as connection:
        for selection in options.selections(storage):
            total = connection.execute(selection.count()).scalar_one()
            rows = [list(row) for row in connection.execute(selection.select(*list(selection.columns)[:2]))]
            stream.write(json.dumps([selection.table.name, total, rows], default=str).encode() + b"\n")


def write_table(storage: Storage, selection: Selection, stream: BinaryIO, options: TableOptions) -> None:
    with storage.snapshot() as connection:
        rows = connection.execute(selection.select(selection.columns[0])).scalars().all()
    text = f"{selection.table.name}: {', '.join(map(str, rows))}"
    stream.write((text.upper() if options.upper else text).encode())
    report_progress(selection.table.name, len(rows), len(rows))


class Rows:
    name = "rows"

    @hookimpl
    def vstorage_register_exporters(self):
        single = TableExporter(filename="export.txt", media_type="text/plain", write=write_table, options=TableOptions)
        yield Exporter(
            name=self.name,
            filename=f"{self.name}.jsonl",
            media_type="text/plain",
            write=write_rows,
            options=RowsOptions,
            table=single,
        )
        if self.name == "rows":
            yield Exporter(name="whole", filename="whole.txt", media_type="text/plain", write=write_rows)


class Others(Rows):
    name = "others"


@pytest.fixture
def filled(database_url, open_storage):
    storage = open_storage(database_url, plugins=[Rows()])
    users = ModelAccessor(User, "people", storage=storage)
    for name, age in (("Ana", 30), ("Ben", None), ("Cid", 70)):
        users.insert(User(name=name, email=f"{name}@example.com", age=age))
    users.delete(3)
    ModelAccessor(Counter, "counters", storage=storage).insert_many([Counter(value=n) for n in range(5)])
    samples = ModelAccessor(Sample, "samples", storage=storage)
    for day in (1, 2):
        samples.insert(
            Sample(
                moment=datetime(2026, 1, day, tzinfo=timezone.utc),
                day=date(2026, 1, day),
                flag=day == 1,
                color=Color.BLUE if day == 1 else Color.RED,
                raw=b"x",
            )
        )
    return storage


def exported(storage: Storage, **options: Any) -> dict[str, list[Any]]:
    """The first two columns of the exported rows, by table."""
    stream = io.BytesIO()
    storage.export("rows", stream, **options)
    found = {}
    for name, count, rows in map(json.loads, stream.getvalue().splitlines()):
        assert count == len(rows)
        found[name] = rows
    return found


def test_filters_deleted_rows_and_tables_are_chosen_alike_on_every_database(filled):
    def ids(table, *where, **options):
        return [row[0] for row in exported(filled, tables=[table], where=list(where), **options)[table]]

    assert ids("users") == [1, 2, 3]
    assert ids("users", deleted=False) == [1, 2]
    assert ids("users", "users.age__gte=30", deleted=False) == [1]
    assert ids("users", "age__gte=30") == [1, 3]
    assert ids("users", "users.age__is_null=true") == [2]
    assert ids("users", "name__in=Ana,Cid", "age__lt=40") == [1]
    assert ids("users", "email=ana@example.com") == [1]
    assert ids("users", "email=") == []
    assert ids("sample", "moment__gte=2026-01-02T00:00:00") == [2]
    assert ids("sample", "moment__gte=2026-01-02T02:00:00+02:00") == [2]
    assert ids("sample", "day=2026-01-01") == [1]
    assert ids("sample", "flag=true") == ids("sample", "color=b") == [1]
    assert ids("sample", "raw__is_null=false") == [1, 2]


def test_a_filter_leaves_the_other_tables_whole_and_the_audit_trail_can_be_filtered(filled):
    found = exported(filled, where=["counter.value__gt=2", "auditlog.operation=soft_delete"])
    assert [row[1] for row in found["counter"]] == [3, 4]
    assert len(found["users"]) == 3
    assert len(found["auditlog"]) == 1
    assert list(found).index("team") < list(found).index("member")


def test_a_model_in_a_registry_of_its_own_can_be_filtered(make_database, open_storage):
    storage = open_storage(make_database("sqlite"), plugins=[Rows()])
    parts = ModelAccessor(Part, "parts", storage=storage)
    storage.create_tables()
    parts.insert_many([Part(weight=1), Part(weight=2)])
    assert exported(storage, where=["part.weight=2"])["part"] == [[2, 2]]


def test_a_table_without_a_model_is_filtered_by_its_columns(make_database, open_storage):
    storage = open_storage(make_database("sqlite"), plugins=[Rows()])
    table = Table("old", SQLModel.metadata, Column("id", Integer, primary_key=True), Column("at", DateTime))
    try:
        storage.create_tables()
        with storage.engine.begin() as connection:
            days = (datetime(2026, 1, day) for day in (1, 2))  # noqa: DTZ001
            connection.execute(table.insert(), [{"at": day} for day in days])
        assert [row[0] for row in exported(storage, tables=["old"], where=["at__gte=2026-01-02"])["old"]] == [2]
        with pytest.raises(InvalidInput, match="'x' cannot be compared with id"):
            exported(storage, where=["old.id=x"])
    finally:
        SQLModel.metadata.remove(table)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            "users.agee__gte=1",
            r"where users.agee__gte: cannot filter by 'agee__gte'; the fields are id, name, email, age",
        ),
        ("users.age__above=1", r"cannot filter by 'age__above'; the operators of age are eq, ne, in, not_in, gt"),
        ("users.age__gte=old", "'old' cannot be compared with age"),
        ("users.age__gte=", "'' cannot be compared with age"),
        (f"users.age={2**63}", "age cannot be compared with this value: the whole number must fit in 64 bits"),
        ("users.name=\0", "the text must not contain NUL characters"),
        ("users.age__is_null=maybe", "age__is_null takes true or false"),
        ("user.age=1", r"where user.age: there is no table user in the export; the exported tables are .*users"),
        ("age=1", r"where age: it names no table; the exported tables are .*users"),
        ("users.age", "a filter of `where` is written table.field__operator=value, e.g. users.age__gte=18"),
        ("=", "a filter of `where` is written"),
        ("sample.raw=x", "bytes such as raw can only be asked whether they are there"),
        ("sample.moment__gte=5", "'5' cannot be compared with moment; write it as in 2026-01-31T08:30:00Z"),
        ("sample.settings=1", "the operators of settings are is_null"),
    ],
)
def test_a_filter_that_cannot_be_is_refused_with_what_there_is(sqlite_storage, where, message):
    with pytest.raises(InvalidInput, match=message):
        SelectionOptions(where=[where]).selections(sqlite_storage)


def test_a_filter_of_a_table_that_is_left_out_is_refused(sqlite_storage):
    options = SelectionOptions(tables=["team"], where=["users.age=1"])
    with pytest.raises(InvalidInput, match="there is no table users in the export; the exported tables are team"):
        options.selections(sqlite_storage)


# Single tables


def single(storage: Storage, table: str, **options: Any) -> str:
    stream = io.BytesIO()
    storage.export("rows", stream, table=table, **options)
    return stream.getvalue().decode()


def test_a_single_table_is_exported_in_its_own_format_with_the_same_filters(filled):
    assert single(filled, "users") == "users: 1, 2, 3"
    assert single(filled, "users", where=["age__gte=30"], deleted=False, upper=True) == "USERS: 1"


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rows", {"table": "wrong"}, "there is no table wrong; the tables are "),
        ("rows", {"table": "users", "tables": ["team"]}, "rows: unknown option tables; it knows: upper"),
        ("rows", {"table": "users", "where": "age=1"}, "rows: where: Input should be a valid list"),
        ("rows", {"table": "users", "where": ["team.name=x"]}, "the exported tables are users"),
        ("whole", {"table": "users"}, "whole writes no single tables; those that do: rows"),
    ],
)
def test_a_single_table_that_cannot_be_exported_is_refused(make_database, open_storage, name, options, message):
    storage = open_storage(make_database("sqlite"), plugins=[Rows()])
    with pytest.raises(InvalidInput, match=message):
        storage.export(name, io.BytesIO(), **options)


def test_two_plugins_whose_single_tables_have_one_file_name_are_refused(make_database, open_storage):
    storage = open_storage(make_database("sqlite"), plugins=[Rows(), Others()])
    with pytest.raises(PluginConflictError, match=r"export file of a table 'export.txt' is provided by both"):
        storage.export("rows", io.BytesIO())


def test_tables_that_refer_to_each_other_are_chosen_in_their_order(sqlite_storage):
    chosen = SelectionOptions(tables=["member", "team"]).selections(sqlite_storage)
    assert [selection.table.name for selection in chosen] == [Team.__tablename__, Member.__tablename__]
