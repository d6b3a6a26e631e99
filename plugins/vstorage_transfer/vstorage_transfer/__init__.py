"""Tables to files and back: what a file format adds to be exported and imported like CSV, and undoing an import."""

from vstorage_transfer.archive import Manifest, ManifestColumn, ManifestTable
from vstorage_transfer.codecs import Codec, codec_of, with_nulls
from vstorage_transfer.export import export_archive, export_table, exporter_of
from vstorage_transfer.formats import FileFormat, FileReader, TableWriter
from vstorage_transfer.importing import import_files, importer_of
from vstorage_transfer.plan import ImportOptions
from vstorage_transfer.report import Difference, ImportReport, Problem, TableReport
from vstorage_transfer.table import BadRow, Finding, ImportTable, Row, is_comment
from vstorage_transfer.undo import UndoOptions, UndoReport, undo_import
from vstorage_transfer.upload import ImportSettings, UploadedFile

__version__ = "0.1.0"

__all__ = [
    "BadRow",
    "Codec",
    "Difference",
    "FileFormat",
    "FileReader",
    "Finding",
    "ImportOptions",
    "ImportReport",
    "ImportSettings",
    "ImportTable",
    "Manifest",
    "ManifestColumn",
    "ManifestTable",
    "Problem",
    "Row",
    "TableReport",
    "TableWriter",
    "UndoOptions",
    "UndoReport",
    "UploadedFile",
    "codec_of",
    "export_archive",
    "export_table",
    "exporter_of",
    "import_files",
    "importer_of",
    "is_comment",
    "undo_import",
    "with_nulls",
]
