"""What the plugin contributes, for pluggy."""

from __future__ import annotations

from collections.abc import Iterator

from vstorage_core import Exporter, Importer, hookimpl
from vstorage_csv.format import CsvFormat
from vstorage_csv.options import CsvExportOptions, CsvImportOptions, CsvTableOptions
from vstorage_transfer import exporter_of, importer_of


@hookimpl
def vstorage_register_exporters() -> Iterator[Exporter]:
    yield exporter_of(
        CsvFormat(),
        filename="export.zip",
        options=CsvExportOptions,
        table_media_type="text/csv",
        table_options=CsvTableOptions,
    )


@hookimpl
def vstorage_register_importers() -> Iterator[Importer]:
    yield importer_of(CsvFormat(), path="import", options=CsvImportOptions)
