"""The archive: a zip of one CSV file per table, with a manifest that says what stands in them."""

from __future__ import annotations

from datetime import datetime
from typing import Literal
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field

MANIFEST = "manifest.json"
FORMAT_VERSION = 1

Dialect = Literal["exact", "spreadsheet"]


def member_name(table: str) -> str:
    """Name of a table's file; a slash in the table's name makes no folder."""
    return f"{quote(table, safe='')}.csv"


class ManifestColumn(BaseModel):
    """One column of a CSV file, in the order of the file."""

    model_config = ConfigDict(extra="forbid")

    name: str
    type: str


class ManifestTable(BaseModel):
    """One CSV file: of which table, with which columns, and how to tell that it is whole."""

    model_config = ConfigDict(extra="forbid")

    name: str
    file: str
    columns: list[ManifestColumn]
    rows: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What an archive is and what it contains; its last member, `manifest.json`."""

    format: Literal["vstorage-csv"] = "vstorage-csv"
    format_version: int = FORMAT_VERSION
    vstorage_version: str
    dialect: Dialect
    delimiter: str = Field(min_length=1, max_length=1)
    taken_at: datetime
    engine: str
    tables: list[ManifestTable]
