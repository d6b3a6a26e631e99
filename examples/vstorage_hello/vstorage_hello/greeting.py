"""What the plugin does, in plain functions that know nothing of plugins."""

from __future__ import annotations

from typing import BinaryIO

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import func, select
from sqlmodel import SQLModel

from vstorage_core import Storage, report_progress


class GreetingOptions(BaseModel):
    """Options of the exporter: flags on the command line, query parameters over HTTP."""

    model_config = ConfigDict(extra="forbid")

    greeting: str = Field(default="Hello", min_length=1, description="What to say to each table")


class HelloSettings(BaseModel):
    """The `hello` section of a storage's configuration; `VSTORAGE_HELLO__GREETING=Hi` wins over it."""

    model_config = ConfigDict(extra="forbid")

    greeting: str = Field(default="Hello", min_length=1)


def write_greeting(storage: Storage, stream: BinaryIO, options: GreetingOptions) -> None:
    """Write one line per table with its number of rows, all counted at one moment."""
    tables = storage.tables()
    with storage.snapshot() as connection:
        for done, table in enumerate(tables, start=1):
            rows = connection.execute(select(func.count()).select_from(table)).scalar_one()
            stream.write(f"{options.greeting}, {table.name}! You have {rows} rows.\n".encode())
            report_progress("tables", done, len(tables))


def refuse_rude_names(instance: SQLModel) -> None:
    """Refuse a record whose `name` is rude.

    Raises:
        ValueError: It is.
    """
    if "blockhead" in str(getattr(instance, "name", "")).lower():
        raise ValueError("that name is rude")
