"""CSV export and import for vstorage: the whole database as a zip of CSV files, and back."""

from vstorage_csv.options import CsvExportOptions, CsvImportOptions, CsvTableOptions
from vstorage_transfer import ImportReport

__version__ = "0.1.0"

__all__ = [
    "CsvExportOptions",
    "CsvImportOptions",
    "CsvTableOptions",
    "ImportReport",
]
