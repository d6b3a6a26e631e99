"""What the plugin contributes, for pluggy."""

from __future__ import annotations

from collections.abc import Iterator

from vstorage_core import Exporter, Importer, hookimpl
from vstorage_parquet.format import ParquetFormat
from vstorage_parquet.options import ParquetExportOptions, ParquetTableOptions
from vstorage_transfer import exporter_of, importer_of


@hookimpl
def vstorage_register_exporters() -> Iterator[Exporter]:
    yield exporter_of(
        ParquetFormat(),
        filename="export.parquet.zip",
        options=ParquetExportOptions,
        table_media_type="application/vnd.apache.parquet",
        table_options=ParquetTableOptions,
    )


@hookimpl
def vstorage_register_importers() -> Iterator[Importer]:
    yield importer_of(ParquetFormat(), path="import-parquet")
