"""Parquet export and import for vstorage: the whole database as a zip of Parquet files, and back."""

from vstorage_parquet.options import ParquetExportOptions, ParquetTableOptions

__version__ = "0.1.0"

__all__ = ["ParquetExportOptions", "ParquetTableOptions"]
