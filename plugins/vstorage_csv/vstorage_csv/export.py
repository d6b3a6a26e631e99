"""Writes all tables to a stream as a zip of CSV files, from one moment, in constant memory."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Connection, Table, func, select

import vstorage_core
from vstorage_core import InvalidInput, Storage, report_progress
from vstorage_core.records import SOFT_DELETE_FIELD
from vstorage_csv.archive import MANIFEST, Dialect, Manifest, ManifestColumn, ManifestTable, member_name
from vstorage_csv.cells import cells_of
from vstorage_csv.lines import LineWriter

_CHUNK_CHARACTERS = 512 * 1024
_MAX_CHUNK_ROWS = 100


class CsvExportOptions(BaseModel):
    """Options of the CSV export."""

    model_config = ConfigDict(extra="forbid")

    tables: list[str] | None = Field(default=None, description="Names of the tables; default: all")
    deleted: bool = Field(default=True, description="Whether soft-deleted records are written too")
    dialect: Dialect = Field(
        default="exact",
        description="exact: reads back as the same values; spreadsheet: for people, formulas defused",
    )
    delimiter: Literal[",", ";", "\t"] = Field(
        default=",", description="Between the cells of the spreadsheet dialect; exact files always have a comma"
    )
    compression_level: int = Field(default=6, ge=0, le=9, description="0: fastest, 9: smallest")


def export_csv(storage: Storage, stream: BinaryIO, options: CsvExportOptions) -> None:
    """Write the tables, all as they were at one moment, and a manifest to `stream`.

    Raises:
        InvalidInput: An option names a table that does not exist.
        StorageUnavailable: The database cannot be read now. What was written until then is not a zip file.
    """
    tables = _chosen(storage.tables(), options.tables)
    sink = _Sink(stream)
    with zipfile.ZipFile(sink, "w") as archive:
        try:
            with storage.snapshot() as connection:
                manifest = Manifest(
                    vstorage_version=vstorage_core.__version__,
                    dialect=options.dialect,
                    delimiter=options.delimiter if options.dialect == "spreadsheet" else ",",
                    taken_at=datetime.now(timezone.utc),
                    engine=connection.dialect.name,
                    tables=[],
                )
                for table in tables:
                    manifest.tables.append(_write_table(archive, connection, table, options, manifest))
            with archive.open(_member(MANIFEST, manifest.taken_at, options), "w") as file:
                file.write(manifest.model_dump_json(indent=2).encode())
        except BaseException:
            # Closing writes the directory, and then half an export looks like a whole one.
            sink.discard = True
            raise


class _Sink(io.RawIOBase):
    """A stream that may only be written, so that the bytes are the same wherever they go."""

    def __init__(self, stream: BinaryIO) -> None:
        super().__init__()
        self._stream = stream
        self.discard = False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if not self.discard:
            self._stream.write(data)
        return len(data)


def _chosen(tables: Sequence[Table], names: Sequence[str] | None) -> list[Table]:
    if names is None:
        return list(tables)
    known = [table.name for table in tables]
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise InvalidInput(f"there is no table {', '.join(unknown)}; the tables are {', '.join(known)}")
    return [table for table in tables if table.name in names]


def _member(name: str, moment: datetime, options: CsvExportOptions) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, moment.timetuple()[:6])
    member.compress_type = zipfile.ZIP_DEFLATED
    # Python 3.13 gives it a public name; without it the archive's own level is ignored.
    member._compresslevel = options.compression_level  # type: ignore[attr-defined]
    member.external_attr = 0o600 << 16
    return member


def _write_table(
    archive: zipfile.ZipFile,
    connection: Connection,
    table: Table,
    options: CsvExportOptions,
    manifest: Manifest,
) -> ManifestTable:
    columns = [cells_of(column, connection.dialect) for column in table.columns]
    statement = select(*(cells.expression() for cells in columns)).order_by(*table.primary_key.columns)
    count = select(func.count()).select_from(table)
    if not options.deleted and SOFT_DELETE_FIELD in table.columns:
        live = table.columns[SOFT_DELETE_FIELD].is_(None)
        statement, count = statement.where(live), count.where(live)
    total = connection.execute(count).scalar_one()
    writer = LineWriter(columns, manifest.dialect, manifest.delimiter)
    name = member_name(table.name)
    digest = hashlib.sha256()
    done = 0
    with archive.open(_member(name, manifest.taken_at, options), "w", force_zip64=True) as file:

        def write(text: str) -> None:
            data = text.encode()
            digest.update(data)
            file.write(data)

        write(writer.header)
        report_progress(table.name, 0, total)
        # Follows the size of the rows, so that a table of large cells needs no more memory.
        size = 1
        with connection.execute(statement.execution_options(stream_results=True)) as result:
            while rows := result.fetchmany(size):
                text = writer.lines(rows)
                write(text)
                done += len(rows)
                report_progress(table.name, done, total)
                size = max(1, min(2 * size, _MAX_CHUNK_ROWS, len(rows) * _CHUNK_CHARACTERS // len(text)))
    return ManifestTable(
        name=table.name,
        file=name,
        columns=[ManifestColumn(name=cells.column.name, type=cells.kind) for cells in columns],
        rows=done,
        sha256=digest.hexdigest(),
    )
