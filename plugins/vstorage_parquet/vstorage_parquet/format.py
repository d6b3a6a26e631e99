"""Parquet as a file format of vstorage_transfer."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, BinaryIO

from sqlalchemy import Column, Dialect

from vstorage_parquet.options import ParquetSettings, ParquetTableOptions
from vstorage_transfer import FileFormat, FileReader, ImportOptions, Manifest, TableWriter, UploadedFile


class ParquetFormat(FileFormat):
    """Columns with types of their own, as data tools read them."""

    name = "parquet"
    title = "Parquet"
    suffix = ".parquet"
    settings = ParquetSettings

    # pyarrow takes a third of a second to import, and most starts of a machine export nothing.
    def writer(
        self, stream: BinaryIO, columns: Sequence[Column[Any]], dialect: Dialect, options: ParquetTableOptions
    ) -> TableWriter:
        """A writer of these columns."""
        from vstorage_parquet.writer import ParquetWriter

        return ParquetWriter(stream, columns, dialect, options)

    def reader(
        self, file: UploadedFile, known: Collection[str], manifest: Manifest | None, options: ImportOptions
    ) -> FileReader:
        """A reader of the file."""
        from vstorage_parquet.reader import ParquetReader

        return ParquetReader(file)

    def deflate_level(self, options: object) -> None:
        """Parquet files are compressed in themselves."""
        return
