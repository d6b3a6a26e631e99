"""What the plugin contributes, for pluggy."""

from __future__ import annotations

from collections.abc import Iterator

from vstorage_core import Exporter, Importer, NoOptions, hookimpl
from vstorage_ndjson.format import NdjsonExportOptions, NdjsonFormat
from vstorage_transfer import exporter_of, importer_of


@hookimpl
def vstorage_register_exporters() -> Iterator[Exporter]:
    yield exporter_of(
        NdjsonFormat(),
        filename="export.ndjson.zip",
        options=NdjsonExportOptions,
        table_media_type="application/x-ndjson",
        table_options=NoOptions,
    )


@hookimpl
def vstorage_register_importers() -> Iterator[Importer]:
    yield importer_of(NdjsonFormat(), path="import-ndjson")
