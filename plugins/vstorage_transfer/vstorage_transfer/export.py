"""Writes tables to a stream, from one moment, in constant memory: all of them as a zip, or one as a file."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any, BinaryIO, cast

from pydantic import BaseModel
from sqlalchemy import Connection

import vstorage_core
from vstorage_core import Exporter, Selection, SelectionOptions, Storage, TableExporter, report_progress
from vstorage_transfer.archive import MANIFEST, ManifestColumn, ManifestTable
from vstorage_transfer.formats import FileFormat, TableWriter

_CHUNK_BYTES = 512 * 1024
_MAX_CHUNK_ROWS = 100


def exporter_of(
    file_format: FileFormat,
    *,
    filename: str,
    options: type[SelectionOptions],
    table_media_type: str,
    table_options: type[BaseModel],
) -> Exporter:
    """The exporter of a file format: all tables as a zip, and each alone.

    Args:
        file_format: Writes the files.
        filename: Of the zip.
        options: Of the zip.
        table_media_type: MIME type of a table's file.
        table_options: Of a table's file alone.
    """

    def write(storage: Storage, stream: BinaryIO, chosen: Any) -> None:
        export_archive(storage, stream, chosen, file_format)

    def write_table(storage: Storage, selection: Selection, stream: BinaryIO, chosen: Any) -> None:
        export_table(storage, selection, stream, chosen, file_format)

    return Exporter(
        name=file_format.name,
        filename=filename,
        media_type="application/zip",
        write=write,
        options=options,
        summary=f"All tables as {file_format.title} files in a zip",
        table=TableExporter(
            filename=f"export{file_format.suffix}",
            media_type=table_media_type,
            write=write_table,
            options=table_options,
        ),
    )


def export_archive(storage: Storage, stream: BinaryIO, options: SelectionOptions, file_format: FileFormat) -> None:
    """Write the tables, all as they were at one moment, and a manifest to `stream`.

    Raises:
        InvalidInput: An option names a table or field that does not exist.
        StorageUnavailable: The database cannot be read now. What was written until then is not a zip file.
    """
    selections = options.selections(storage)
    sink = _Sink(stream)
    with zipfile.ZipFile(sink, "w") as archive:
        try:
            with storage.snapshot() as connection:
                manifest = file_format.manifest(
                    format=file_format.manifest_name,
                    vstorage_version=vstorage_core.__version__,
                    taken_at=datetime.now(timezone.utc),
                    engine=connection.dialect.name,
                    where=options.where,
                    deleted=options.deleted,
                    tables=[],
                    **file_format.manifest_fields(options),
                )
                level = file_format.deflate_level(options)
                for selection in selections:
                    name = file_format.file_name(selection.table.name)
                    with archive.open(_member(name, manifest.taken_at, level), "w", force_zip64=True) as member:
                        digest = hashlib.sha256()
                        file = _Sink(member, digest)
                        with _table_writer(file_format, file, connection, selection, options) as writer:
                            rows = _write_rows(connection, selection, writer)
                    manifest.tables.append(
                        ManifestTable(
                            name=selection.table.name,
                            file=name,
                            columns=[
                                ManifestColumn(name=column.name, type=kind)
                                for column, kind in zip(selection.columns, writer.kinds, strict=True)
                            ],
                            rows=rows,
                            sha256=digest.hexdigest(),
                        )
                    )
            with archive.open(_member(MANIFEST, manifest.taken_at, 6), "w") as member:
                member.write(manifest.model_dump_json(indent=2).encode())
        except BaseException:
            # Closing writes the directory, and then half an export looks like a whole one.
            sink.discard = True
            raise


def export_table(
    storage: Storage, selection: Selection, stream: BinaryIO, options: BaseModel, file_format: FileFormat
) -> None:
    """Write the rows of one table as a file of this format to `stream`."""
    with (
        storage.snapshot() as connection,
        _table_writer(file_format, _Sink(stream), connection, selection, options) as writer,
    ):
        _write_rows(connection, selection, writer)


@contextmanager
def _table_writer(
    file_format: FileFormat, sink: _Sink, connection: Connection, selection: Selection, options: BaseModel
) -> Iterator[TableWriter]:
    try:
        writer = file_format.writer(cast(BinaryIO, sink), selection.columns, connection.dialect, options)
        yield writer
        writer.finish()
    except BaseException:
        # Some writers end the file when they are thrown away, and then half a file looks like a whole one.
        sink.discard = True
        raise


def _write_rows(connection: Connection, selection: Selection, writer: TableWriter) -> int:
    """Write the rows; returns how many there are."""
    label = selection.table.name
    total = connection.execute(selection.count()).scalar_one()
    statement = selection.select(*writer.expressions).execution_options(stream_results=True)
    report_progress(label, 0, total)
    # Follows the size of the rows, so that a table of large cells needs no more memory.
    done, size = 0, 1
    with connection.execute(statement) as result:
        while rows := result.fetchmany(size):
            length = writer.write(rows)
            done += len(rows)
            report_progress(label, done, total)
            size = max(1, min(2 * size, _MAX_CHUNK_ROWS, len(rows) * _CHUNK_BYTES // max(1, length)))
    return done


class _Sink(io.RawIOBase):
    """A stream that may only be written, so that the bytes are the same wherever they go.

    Args:
        stream: Gets the bytes.
        digest: Is told them too.
    """

    def __init__(self, stream: Any, digest: Any = None) -> None:
        super().__init__()
        self._stream = stream
        self._digest = digest
        self._position = 0
        self.discard = False

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def write(self, data: Any) -> int:
        if not self.discard:
            self._stream.write(data)
            if self._digest is not None:
                self._digest.update(data)
        self._position += len(data)
        return len(data)


def _member(name: str, moment: datetime, level: int | None) -> zipfile.ZipInfo:
    member = zipfile.ZipInfo(name, moment.timetuple()[:6])
    member.compress_type = zipfile.ZIP_STORED if level is None else zipfile.ZIP_DEFLATED
    # Python 3.13 gives it a public name; without it the archive's own level is ignored.
    member._compresslevel = level  # type: ignore[attr-defined]
    member.external_attr = 0o600 << 16
    return member
