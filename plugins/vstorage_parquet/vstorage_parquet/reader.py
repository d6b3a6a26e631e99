"""Reads a Parquet file as rows of a table."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow
import pyarrow.parquet

from vstorage_core import ImportRefused
from vstorage_core.records import Values
from vstorage_transfer import BadRow, Codec, FileReader, Finding, ImportTable, Row, UploadedFile

_BATCH_ROWS = 500
# Where pandas puts an index that has no name.
_INDEX = "__index_level_"


class ParquetReader(FileReader):
    """Reads one file, some rows at a time.

    Raises:
        ImportRefused: It is no Parquet file, or larger than it may be.
    """

    names: Sequence[str]

    def __init__(self, file: UploadedFile) -> None:
        self._file = file
        with self._opened() as parquet:
            self.names = [name for name in parquet.schema_arrow.names if not name.startswith(_INDEX)]
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
        if twice:
            raise ImportRefused(f"{file.name}: two columns are called {', '.join(twice)}")

    @contextmanager
    def _opened(self) -> Iterator[pyarrow.parquet.ParquetFile]:
        # The footer is read first, and a member of a zip seeks slowly.
        with self._file.open() as stream, tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(stream, copy)
            copy.seek(0)
            try:
                with pyarrow.parquet.ParquetFile(copy, page_checksum_verification=True) as parquet:
                    self._refuse_size(parquet.metadata)
                    yield parquet
            except (pyarrow.ArrowException, OSError) as error:
                raise ImportRefused(
                    f"{self._file.name} is damaged or no Parquet file ({str(error).splitlines()[0][:200]})"
                ) from error

    def _refuse_size(self, metadata: pyarrow.parquet.FileMetaData) -> None:
        size = sum(metadata.row_group(number).total_byte_size for number in range(metadata.num_row_groups))
        limit = self._file.settings.max_import_bytes
        if size > limit:
            raise ImportRefused(
                f"{self._file.name} has {size:,} bytes when it is unpacked; the setting parquet.max_import_bytes allows"
                f" {limit:,}"
            )

    def rows(self, table: ImportTable) -> Iterator[Row | BadRow]:
        """The rows in the order of the file."""
        number = 0
        columns = [(name, *table.columns[name]) for name in self.names if name in table.columns]
        with self._opened() as parquet:
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=[name for name, _, _ in columns]):
                size = int(batch.nbytes) // max(1, batch.num_rows)
                found = [_values(batch.column(name), name) for name, _, _ in columns]
                for values in zip(*found, strict=True) if found else ():
                    number += 1
                    yield _row(table, number, size, columns, values)

    def cell(self, source: Mapping[str, Any], column: str) -> str | None:
        """The value of the row in the column, as Python writes it."""
        value = source.get(column)
        return None if value is None else str(value)


def _values(array: pyarrow.Array, name: str) -> list[Any]:
    """The values of a column in types of Python."""
    kind = array.type
    try:
        if pyarrow.types.is_dictionary(kind):
            return _values(array.dictionary_decode(), name)
        if pyarrow.types.is_timestamp(kind):
            array = array.cast(pyarrow.timestamp("us", kind.tz))
        elif pyarrow.types.is_time(kind):
            array = array.cast(pyarrow.time64("us"))
        elif pyarrow.types.is_duration(kind):
            array = array.cast(pyarrow.duration("us"))
        found: list[Any] = array.to_pylist()
    # pyarrow raises all of these for what Python has no value for, e.g. the year 10,000.
    except (pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise ImportRefused(f"the column {name} cannot be read as {kind}: {error}") from error
    return found


def _row(
    table: ImportTable, number: int, size: int, columns: list[tuple[str, str, Codec]], given: tuple[Any, ...]
) -> Row | BadRow:
    values: Values = {}
    findings = []
    for (name, attribute, codec), value in zip(columns, given, strict=True):
        try:
            values[attribute] = None if value is None else codec.accept(value)
        except ValueError as error:
            findings.append(Finding(name, str(error)))
    source = {name: value for (name, _, _), value in zip(columns, given, strict=True)}
    return table.row(number, source, size, values, findings)
