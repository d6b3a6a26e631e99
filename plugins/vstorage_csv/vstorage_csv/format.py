"""CSV as a file format of vstorage_transfer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, BinaryIO, ClassVar

from sqlalchemy import Column, Dialect

from vstorage_csv.options import CsvImportOptions, CsvManifest, CsvSettings, CsvTableOptions
from vstorage_csv.reader import CsvReader
from vstorage_csv.sheet import Sheet
from vstorage_csv.writer import CsvWriter
from vstorage_transfer import FileFormat, Manifest, UploadedFile


class CsvFormat(FileFormat):
    """Comma-separated values, exact or as spreadsheets write them."""

    name = "csv"
    title = "CSV"
    suffix = ".csv"
    settings = CsvSettings
    manifest: ClassVar[type[Manifest]] = CsvManifest

    def writer(
        self, stream: BinaryIO, columns: Sequence[Column[Any]], dialect: Dialect, options: CsvTableOptions
    ) -> CsvWriter:
        """A writer of these columns."""
        return CsvWriter(stream, columns, dialect, options)

    def reader(
        self, file: UploadedFile, known: Collection[str], manifest: CsvManifest | None, options: CsvImportOptions
    ) -> CsvReader:
        """A reader of the file; what the options leave open, the manifest tells."""
        dialect = options.dialect or (manifest.dialect if manifest else "spreadsheet")
        comma = options.decimal_comma
        if comma is None:
            comma = manifest is not None and manifest.decimal_comma
        sheet = Sheet(decimal_comma=comma, dates=options.dates) if dialect == "spreadsheet" else None
        return CsvReader(file, known, sheet)

    def manifest_fields(self, options: CsvTableOptions) -> dict[str, Any]:
        """How the files are written."""
        return {"dialect": options.dialect, "delimiter": options.delimiter, "decimal_comma": options.decimal_comma}
