"""The archive: a zip of one file per table, with a manifest that says what stands in them."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

MANIFEST = "manifest.json"
FORMAT_VERSION = 1


class ManifestColumn(BaseModel):
    """One column of a file, in the order of the file."""

    model_config = ConfigDict(extra="forbid")

    name: str
    type: str


class ManifestTable(BaseModel):
    """One file: of which table, with which columns, and how to tell that it is whole."""

    model_config = ConfigDict(extra="forbid")

    name: str
    file: str
    columns: list[ManifestColumn]
    rows: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class Manifest(BaseModel):
    """What an archive is and what it contains; its last member, `manifest.json`.

    Attributes:
        format: The file format's `manifest_name`.
        where: Filters that chose the rows; empty: all rows of the tables.
        deleted: Whether soft-deleted records are in it.
    """

    model_config = ConfigDict(extra="forbid")

    format: str
    format_version: int = FORMAT_VERSION
    vstorage_version: str
    taken_at: datetime
    engine: str
    where: list[str] = []
    deleted: bool = True
    tables: list[ManifestTable]
