"""Which file of an upload goes to which table, and whether it fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vstorage_core import ImportRefused, Storage
from vstorage_core.audit import AUDIT_TABLE
from vstorage_transfer.formats import FileFormat, FileReader
from vstorage_transfer.report import ImportReport
from vstorage_transfer.table import BadRow, ImportTable, Row
from vstorage_transfer.upload import Upload, UploadedFile

CHUNK_ROWS = 500
_CHUNK_BYTES = 1024 * 1024


class ImportOptions(BaseModel):
    """Options of the import of any file format."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["insert", "upsert", "replace"] = Field(
        default="upsert",
        description="insert: every row is new; upsert: rows with a known key are updated;"
        " replace: and records that are not in the file are deleted",
    )
    dry_run: bool = Field(default=False, description="Only report what would happen")
    on_error: Literal["fail", "skip"] = Field(
        default="fail",
        description="fail: with a bad row nothing is stored; skip: the good rows are stored",
    )
    tables: list[str] | None = Field(
        default=None, description="Tables of the zip to import, or the table of a file; default: all, or as named"
    )
    edited: bool = Field(default=False, description="The files were edited: do not compare them with the manifest")


class TableFile:
    """A file and the table that its rows go to.

    Args:
        file: Of the upload.
        reader: Of the file.
        table: Which gets its rows.
        needs_key: Whether the file must have the column of the key.

    Raises:
        ImportRefused: The columns do not fit the table.
    """

    def __init__(self, file: UploadedFile, reader: FileReader, table: ImportTable, *, needs_key: bool) -> None:
        self.file = file
        self.reader = reader
        self.table = table
        names = reader.names
        if names is None:
            return
        unknown = table.unknown(names)
        if unknown:
            raise ImportRefused(
                f"{file.name}: the table {table.name} has no column {', '.join(map(repr, unknown))};"
                f" it has {', '.join(table.columns)}"
            )
        missing = table.missing(names, needs_key=needs_key)
        if missing:
            hint = "; with mode=insert the database makes keys" if not table.missing(names, needs_key=False) else ""
            raise ImportRefused(f"{file.name}: the column {', '.join(map(repr, missing))} is missing{hint}")

    def chunks(self) -> Iterator[tuple[list[Row], list[BadRow]]]:
        """The rows of the file in order, some at a time; no two rows of a chunk have the same key."""
        good: list[Row] = []
        bad: list[BadRow] = []
        keys: set[Any] = set()
        length = 0
        for row in self.reader.rows(self.table):
            key = row.values.get(self.table.record.key) if isinstance(row, Row) else None
            if key in keys or len(good) + len(bad) >= CHUNK_ROWS or length > _CHUNK_BYTES:
                yield good, bad
                good, bad, length = [], [], 0
                keys.clear()
            length += row.size
            if isinstance(row, BadRow):
                bad.append(row)
                continue
            good.append(row)
            if key is not None:
                keys.add(key)
        yield good, bad


class ImportPlan:
    """Which file goes to which table.

    Args:
        storage: Has the tables.
        upload: Has the files.
        options: Of the importer.
        file_format: Of the files.
        report: Is told what is skipped.
    """

    def __init__(
        self, storage: Storage, upload: Upload, options: ImportOptions, file_format: FileFormat, report: ImportReport
    ) -> None:
        self._upload = upload
        self._options = options
        self._format = file_format
        self._report = report
        self._order = [table.name for table in storage.tables()]
        self._tables = _importable(storage)

    def files(self) -> list[TableFile]:
        """The files to import, referenced tables first; notes in the report which are skipped.

        Raises:
            ImportRefused: A file is of no table, of one that nobody writes, or does not fit its table.
        """
        files = self._upload.files
        named = [(file.table, file) for file in files] if len(files) > 1 else [(self._table_of(files[0]), files[0])]
        wanted = self._options.tables
        absent = sorted(set(wanted or ()) - {name for name, _ in named})
        if absent:
            raise ImportRefused(f"the upload has no file of the table {', '.join(absent)}")
        planned: dict[str, TableFile] = {}
        for name, file in named:
            if wanted is not None and name not in wanted:
                self._report.skipped[file.name] = "not among the tables that were asked for"
            elif name == AUDIT_TABLE.name:
                self._report.skipped[file.name] = "the audit trail is never imported"
            elif name is None or name not in self._order:
                raise ImportRefused(f"{file.name}: there is no table {name!r}; the tables are {', '.join(self._order)}")
            elif name not in self._tables and file.rows == 0:
                self._report.skipped[file.name] = "it has no rows, and no accessor writes its table"
            elif name not in self._tables:
                raise ImportRefused(
                    f"{file.name}: no accessor writes the table {name!r}; add one, or name the others in the option"
                    " tables"
                )
            elif name in planned:
                raise ImportRefused(f"{planned[name].file.name} and {file.name} are both of the table {name}")
            else:
                planned[name] = self._fitted(file, self._tables[name])
        return sorted(planned.values(), key=lambda file: self._order.index(file.table.name))

    def _fitted(self, file: UploadedFile, table: ImportTable) -> TableFile:
        reader = self._reader(file, set(table.columns))
        return TableFile(file, reader, table, needs_key=self._options.mode != "insert")

    def _reader(self, file: UploadedFile, known: set[str]) -> FileReader:
        return self._format.reader(file, known, self._upload.manifest, self._options)

    def _table_of(self, file: UploadedFile) -> str:
        """Table of the only file: as asked for, as the file is called, or the only one that it fits."""
        wanted = self._options.tables
        if wanted is not None and len(wanted) == 1:
            return wanted[0]
        if file.table in self._order:
            return str(file.table)
        names = self._reader(file, {name for table in self._tables.values() for name in table.columns}).names
        if names is None:
            raise ImportRefused(f"{file.name} has no rows")
        fitting = [
            name
            for name, table in self._tables.items()
            if not table.unknown(names) and not table.missing(names, needs_key=False)
        ]
        if len(fitting) != 1:
            which = f"each of {', '.join(fitting)}" if fitting else "no table"
            raise ImportRefused(f"{file.name} fits {which}; name its table with the option tables")
        return fitting[0]


def _importable(storage: Storage) -> dict[str, ImportTable]:
    dialect = storage.engine.dialect
    tables: dict[str, ImportTable] = {}
    for accessor in storage.accessors:
        mapper = accessor.record.mapper
        # Which class a row of a hierarchy is of, a file cannot tell.
        if mapper.inherits is None and mapper.polymorphic_on is None:
            tables[mapper.local_table.name] = ImportTable(storage, accessor, dialect)
    return tables
