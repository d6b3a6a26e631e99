"""What a file format has to do, so that tables are exported in it and imported from it: encode rows and decode them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Sequence
from typing import Any, BinaryIO, ClassVar
from urllib.parse import quote, unquote

from sqlalchemy import Column, ColumnElement, Dialect

from vstorage_transfer.archive import Manifest
from vstorage_transfer.table import BadRow, ImportTable, Row
from vstorage_transfer.upload import ImportSettings, UploadedFile


class TableWriter(ABC):
    """Writes the rows of one table to one file.

    Attributes:
        expressions: What to select, one expression per column.
        kinds: Names of the columns' types, for the manifest.
    """

    expressions: Sequence[ColumnElement[Any]]
    kinds: Sequence[str]

    @abstractmethod
    def write(self, rows: Sequence[Sequence[Any]]) -> int:
        """Write rows, at least one, as the driver gave them; returns about how many bytes they are."""

    def finish(self) -> None:
        """Write what a file of this format ends with; the stream stays open."""
        return


class FileReader(ABC):
    """One file of an upload.

    Attributes:
        names: The columns that it has; None where it has no rows that could tell.
    """

    names: Sequence[str] | None

    @abstractmethod
    def rows(self, table: ImportTable) -> Iterator[Row | BadRow]:
        """The rows in the order of the file, as `ImportTable.row` makes them.

        Raises:
            ImportRefused: The file cannot be read on.
        """

    @abstractmethod
    def cell(self, source: Any, column: str) -> str | None:
        """What the row with this source has in the column, as people read it."""

    def errors_file(self, rows: Sequence[BadRow]) -> str | None:
        """A file of this format with these rows alone and what is wrong with them; None where it is no text."""
        return None


class FileFormat(ABC):
    """A file format.

    Attributes:
        name: Of its exporter and importer, and of its section of the configuration, e.g. `csv`.
        title: What people call it, e.g. `CSV`.
        suffix: What its files' names end with, e.g. `.csv`.
        settings: Its section of the configuration, called as the format.
        manifest: Its manifest, where that tells more than any.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    suffix: ClassVar[str]
    settings: ClassVar[type[ImportSettings]]
    manifest: ClassVar[type[Manifest]] = Manifest

    @property
    def manifest_name(self) -> str:
        """What the manifest says that an archive of this format is."""
        return f"vstorage-{self.name}"

    @abstractmethod
    def writer(self, stream: BinaryIO, columns: Sequence[Column[Any]], dialect: Dialect, options: Any) -> TableWriter:
        """A writer of these columns, with the exporter's options."""

    @abstractmethod
    def reader(self, file: UploadedFile, known: Collection[str], manifest: Any, options: Any) -> FileReader:
        """A reader of the file.

        Args:
            file: Of the upload.
            known: Names of columns that there are.
            manifest: Of the archive, or None without one.
            options: Of the importer.

        Raises:
            ImportRefused: It is no file of this format.
        """

    def manifest_fields(self, options: Any) -> dict[str, Any]:
        """What the manifest tells more than any, by field."""
        return {}

    def deflate_level(self, options: Any) -> int | None:
        """How hard the archive compresses the files, 0 to 9; None where they are compressed in themselves."""
        level: int = options.compression_level
        return level

    def file_name(self, table: str) -> str:
        """Name of a table's file; a slash in the table's name makes no folder."""
        return quote(table, safe="") + self.suffix

    def table_name(self, file: str) -> str | None:
        """Name of the table whose file is called so; None where no file of this format is called so."""
        return unquote(file[: -len(self.suffix)]) if file.lower().endswith(self.suffix) else None
