"""CSV export and import for vstorage: the whole database as a zip of CSV files, and back."""

from vstorage_csv.export import CsvExportOptions
from vstorage_csv.importing import CsvImportOptions
from vstorage_csv.report import Difference, ImportReport, Problem, TableReport
from vstorage_csv.undo import CsvUndoOptions, UndoReport

__version__ = "0.1.0"

__all__ = [
    "CsvExportOptions",
    "CsvImportOptions",
    "CsvUndoOptions",
    "Difference",
    "ImportReport",
    "Problem",
    "TableReport",
    "UndoReport",
]
