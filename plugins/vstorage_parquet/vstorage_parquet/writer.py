"""Writes rows as a Parquet file, in groups of rows that fit in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

import pyarrow
import pyarrow.parquet
from sqlalchemy import Column, Dialect, Numeric

from vstorage_core import InvalidInput
from vstorage_parquet.options import ParquetTableOptions
from vstorage_transfer import Codec, TableWriter, codec_of, with_nulls

# Large enough for readers to skip and scan groups, small enough for 512 MB.
_GROUP_BYTES = 4 * 1024 * 1024
_GROUP_ROWS = 100_000
_TYPES: dict[str, pyarrow.DataType] = {
    "integer": pyarrow.int64(),
    "float": pyarrow.float64(),
    "boolean": pyarrow.bool_(),
    "date": pyarrow.date32(),
    "time": pyarrow.time64("us"),
    "duration": pyarrow.duration("us"),
    "bytes": pyarrow.binary(),
}
_LARGEST_PRECISION = 76


def arrow_type(codec: Codec) -> pyarrow.DataType:
    """The type of the column in the file."""
    if codec.kind == "datetime":
        return pyarrow.timestamp("us", "UTC" if codec.is_instant else None)
    if codec.kind == "decimal":
        return _decimal_type(codec.column)
    return _TYPES.get(codec.kind, pyarrow.string())


def _decimal_type(column: Column[Any]) -> pyarrow.DataType:
    precision = column.type.precision if isinstance(column.type, Numeric) else None
    scale = column.type.scale if isinstance(column.type, Numeric) else None
    if precision is None or scale is None or precision > _LARGEST_PRECISION:
        # Of any length, which no type of Parquet has.
        return pyarrow.string()
    return pyarrow.decimal128(precision, scale) if precision <= 38 else pyarrow.decimal256(precision, scale)


class ParquetWriter(TableWriter):
    """Writes one file.

    Args:
        stream: At the start of the file.
        columns: Of the table.
        dialect: Of the database.
        options: Of the export.
    """

    def __init__(
        self, stream: BinaryIO, columns: Sequence[Column[Any]], dialect: Dialect, options: ParquetTableOptions
    ) -> None:
        self._codecs = [codec_of(column, dialect) for column in columns]
        self.expressions = [codec.expression() for codec in self._codecs]
        self.kinds = [codec.kind for codec in self._codecs]
        self._schema = pyarrow.schema(
            [
                pyarrow.field(column.name, arrow_type(codec), nullable=bool(column.nullable))
                for column, codec in zip(columns, self._codecs, strict=True)
            ]
        )
        self._writer = pyarrow.parquet.ParquetWriter(
            pyarrow.PythonFile(stream, mode="w"),
            self._schema,
            compression=options.compression,
            write_page_checksum=True,
        )
        self._batches: list[pyarrow.RecordBatch] = []

    def write(self, rows: Sequence[Sequence[Any]]) -> int:
        """Write rows, of which there is at least one; returns how many bytes they are in memory."""
        batch = pyarrow.record_batch(
            [
                _array(codec, field, values)
                for codec, field, values in zip(self._codecs, self._schema, zip(*rows, strict=True), strict=True)
            ],
            schema=self._schema,
        )
        self._batches.append(batch)
        if (
            sum(part.num_rows for part in self._batches) >= _GROUP_ROWS
            or sum(part.nbytes for part in self._batches) >= _GROUP_BYTES
        ):
            self._write_group()
        return int(batch.nbytes)

    def finish(self) -> None:
        """Write the last group and the footer; the stream stays open."""
        if self._batches:
            self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        group = pyarrow.Table.from_batches(self._batches, self._schema)
        self._batches.clear()
        self._writer.write_table(group, row_group_size=group.num_rows)


def _array(codec: Codec, field: pyarrow.Field, values: Sequence[Any]) -> pyarrow.Array:
    convert: Callable[[Sequence[Any]], Sequence[Any]] = (
        codec.texts if pyarrow.types.is_string(field.type) else codec.loaded
    )
    try:
        return pyarrow.array(with_nulls(convert, values, None), field.type)
    # A database of the original may hold anything where the type of the column allows none.
    except (ValueError, TypeError, ArithmeticError, pyarrow.ArrowException) as error:
        raise InvalidInput(
            f"{codec.column.table.name}.{field.name} holds values that are no {codec.kind}, and a column of Parquet has"
            f" one type ({error}); export the table as CSV or NDJSON, or leave it out"
        ) from None
