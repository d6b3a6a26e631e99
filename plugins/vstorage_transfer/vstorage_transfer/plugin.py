"""What the plugin contributes, for pluggy."""

from __future__ import annotations

from collections.abc import Iterator

from vstorage_core import Importer, hookimpl
from vstorage_transfer.undo import UndoOptions, UndoReport, undo_import


@hookimpl
def vstorage_register_importers() -> Iterator[Importer]:
    yield Importer(
        name="undo",
        path="import-undo",
        read=undo_import,
        options=UndoOptions,
        report=UndoReport,
        summary="Undo an import; the file is its report",
    )
