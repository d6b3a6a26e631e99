"""What the plugin contributes, for pluggy."""

from __future__ import annotations

from collections.abc import Iterator

from vstorage_core import Exporter, Importer, Storage, hookimpl, with_defaults
from vstorage_csv.format import CsvFormat
from vstorage_csv.options import CsvExportOptions, CsvImportOptions, CsvSettings, CsvTableOptions
from vstorage_transfer import exporter_of, importer_of


@hookimpl
def vstorage_register_exporters(storage: Storage) -> Iterator[Exporter]:
    settings = storage.settings("csv", CsvSettings)
    yield exporter_of(
        CsvFormat(),
        filename="export.zip",
        options=with_defaults(CsvExportOptions, settings),
        table_media_type="text/csv",
        table_options=with_defaults(CsvTableOptions, settings),
    )


@hookimpl
def vstorage_register_importers() -> Iterator[Importer]:
    yield importer_of(CsvFormat(), path="import", options=CsvImportOptions)
