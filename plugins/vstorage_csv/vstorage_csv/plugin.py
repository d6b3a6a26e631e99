"""What the plugin contributes, for pluggy."""

from __future__ import annotations

from collections.abc import Iterator

from vstorage_core import Exporter, Importer, hookimpl
from vstorage_csv.export import CsvExportOptions, export_csv
from vstorage_csv.importing import CsvImportOptions, import_csv
from vstorage_csv.report import ImportReport
from vstorage_csv.undo import CsvUndoOptions, UndoReport, undo_import


@hookimpl
def vstorage_register_exporters() -> Iterator[Exporter]:
    yield Exporter(
        name="csv",
        filename="export.zip",
        media_type="application/zip",
        write=export_csv,
        options=CsvExportOptions,
        summary="All tables as CSV files in a zip",
    )


@hookimpl
def vstorage_register_importers() -> Iterator[Importer]:
    yield Importer(
        name="csv",
        path="import",
        read=import_csv,
        options=CsvImportOptions,
        report=ImportReport,
        summary="Import a zip of CSV files, or a CSV file",
    )
    yield Importer(
        name="csv-undo",
        path="import-undo",
        read=undo_import,
        options=CsvUndoOptions,
        report=UndoReport,
        summary="Undo an import; the file is its report",
    )
