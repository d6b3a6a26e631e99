"""NDJSON as a file format of vstorage_transfer: each line is one record as a JSON object."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, BinaryIO

from pydantic import Field
from sqlalchemy import Column, Dialect

from vstorage_core import SelectionOptions
from vstorage_ndjson.reader import NdjsonReader
from vstorage_ndjson.writer import NdjsonWriter
from vstorage_transfer import FileFormat, ImportOptions, ImportSettings, Manifest, UploadedFile


class NdjsonSettings(ImportSettings):
    """The `ndjson` section of a storage's configuration.

    Attributes:
        max_import_bytes: Most bytes that an upload may have when it is unpacked.
        max_row_bytes: Most bytes of one line of a file; a line is held in memory.
    """

    max_row_bytes: int = Field(default=16 * 1024**2, gt=0)


class NdjsonExportOptions(SelectionOptions):
    """Options of the export."""

    compression_level: int = Field(default=6, ge=0, le=9, description="0: fastest, 9: smallest")


class NdjsonFormat(FileFormat):
    """Newline-delimited JSON, also known as JSON Lines."""

    name = "ndjson"
    title = "NDJSON"
    suffix = ".ndjson"
    settings = NdjsonSettings

    def writer(
        self, stream: BinaryIO, columns: Sequence[Column[Any]], dialect: Dialect, options: object
    ) -> NdjsonWriter:
        """A writer of these columns."""
        return NdjsonWriter(stream, columns, dialect)

    def reader(
        self, file: UploadedFile, known: Collection[str], manifest: Manifest | None, options: ImportOptions
    ) -> NdjsonReader:
        """A reader of the file."""
        return NdjsonReader(file)
