"""NDJSON export and import for vstorage: the whole database as a zip of JSON lines, and back."""

from vstorage_ndjson.format import NdjsonExportOptions

__version__ = "0.1.0"

__all__ = ["NdjsonExportOptions"]
