"""Writes rows as lines of JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from json.encoder import encode_basestring
from typing import Any, BinaryIO

from sqlalchemy import Column, Dialect

from vstorage_transfer import Codec, TableWriter, codec_of, with_nulls

_BARE = ("integer", "float", "boolean")
# The numbers of JSON, and its words; nan and inf are none.
_BARE_TEXTS = re.compile(r"(?:(?:-?[0-9]+(?:\.[0-9]+)?(?:e[+-]?[0-9]+)?|true|false)\n)*")


class NdjsonWriter(TableWriter):
    """Writes one file.

    Args:
        stream: At the start of the file.
        columns: Of the table.
        dialect: Of the database.
    """

    def __init__(self, stream: BinaryIO, columns: Sequence[Column[Any]], dialect: Dialect) -> None:
        self._stream = stream
        self._codecs = [codec_of(column, dialect) for column in columns]
        self.expressions = [codec.expression() for codec in self._codecs]
        self.kinds = [codec.kind for codec in self._codecs]
        names = (encode_basestring(column.name).replace("%", "%%") for column in columns)
        self._line = "{" + ",".join(f"{name}:%s" for name in names) + "}\n"

    def write(self, rows: Sequence[Sequence[Any]]) -> int:
        """Write rows, of which there is at least one; returns how many bytes they are."""
        # Column by column, so that the loop over the rows runs in C.
        columns = [
            with_nulls(partial(_json, codec), values, "null")
            for codec, values in zip(self._codecs, zip(*rows, strict=True), strict=True)
        ]
        data = "".join(map(self._line.__mod__, zip(*columns, strict=True))).encode()
        self._stream.write(data)
        return len(data)


def _json(codec: Codec, values: Sequence[Any]) -> Sequence[str]:
    try:
        texts = codec.texts(values)
    except (ValueError, TypeError, ArithmeticError):
        texts = list(map(str, values))
    if codec.kind == "json":
        return list(map(_one_line, texts))
    if codec.kind not in _BARE:
        return list(map(encode_basestring, texts))
    if _BARE_TEXTS.fullmatch("\n".join([*texts, ""])):
        return texts
    # A database of the original may hold any text where the type of the column allows none.
    return [text if _BARE_TEXTS.fullmatch(f"{text}\n") else encode_basestring(text) for text in texts]


def _one_line(text: str) -> str:
    """The JSON text as it is stored, on one line; what is no JSON becomes text."""
    try:
        value = json.loads(text, parse_constant=_refuse)
        return text if text.isprintable() else json.dumps(value)
    except (ValueError, RecursionError):
        return encode_basestring(text)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
