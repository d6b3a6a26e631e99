"""Values as spreadsheets write and recognise them: names of true and false, decimal commas, days before months."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import date, datetime, timezone
from typing import Any, Literal

from vstorage_transfer import Codec

Dates = Literal["iso", "dmy", "mdy"]

# As Excel writes them in English, German, French, Spanish, Italian, Portuguese, Dutch and Polish.
_TRUE = frozenset({"true", "1", "wahr", "vrai", "verdadero", "vero", "verdadeiro", "waar", "prawda"})
_FALSE = frozenset({"false", "0", "falsch", "faux", "falso", "onwaar", "fałsz"})
_NUMBERS = ("integer", "float", "decimal")
_DAY_FIRST_OR_NOT = re.compile(
    r"(?P<a>\d{1,2})(?P<mark>[./-])(?P<b>\d{1,2})(?P=mark)(?P<year>\d{4})"
    r"(?:,? (?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?(?: (?P<half>[AaPp])[Mm])?)?"
)
_SHORTENED = re.compile(r"[+-]?\d(?:[.,]\d+)?[Ee][+-]?\d+")


class Sheet:
    """How a spreadsheet writes values.

    Args:
        decimal_comma: Whether numbers have a decimal comma.
        dates: `dmy` is 31.01.2026 or 31/1/2026, `mdy` 1/31/2026; dates that begin with the year are always read.
    """

    def __init__(self, *, decimal_comma: bool = False, dates: Dates = "iso") -> None:
        self._decimal_comma = decimal_comma
        self._dates = dates

    def texts(self, codec: Codec, values: Sequence[Any]) -> Sequence[str]:
        """The text of each value as a spreadsheet recognises it."""
        if codec.kind == "boolean":
            return ["TRUE" if value else "FALSE" for value in values]
        if codec.kind == "datetime":
            # Spreadsheets take a time with a zone, or with the T of ISO 8601, for text.
            moments: Sequence[datetime] = codec.loaded(values)
            return [moment.replace(tzinfo=None).isoformat(" ").removesuffix(".000000") for moment in moments]
        texts = codec.texts(values)
        if self._decimal_comma and codec.kind in ("float", "decimal"):
            return [text.replace(".", ",") for text in texts]
        return texts

    def parse(self, codec: Codec, text: str) -> Any:
        """The value of a cell.

        Raises:
            ValueError: It is none, with a sentence that says why.
        """
        if codec.kind == "boolean":
            return self._boolean(codec, text)
        if codec.kind in _NUMBERS:
            return self._number(codec, text)
        if codec.kind in ("date", "datetime"):
            return self._date(codec, text)
        return codec.parse(text)

    def _boolean(self, codec: Codec, text: str) -> bool:
        word = text.strip().lower()
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
        return bool(codec.parse(text))

    def _number(self, codec: Codec, text: str) -> Any:
        plain = text.strip()
        if codec.kind != "integer" and self._decimal_comma:
            if "." in plain:
                raise ValueError("has a point where decimal_comma=true expects a comma and no thousands separators")
            plain = plain.replace(",", ".")
        try:
            return codec.parse(plain)
        except ValueError as error:
            if codec.kind == "integer" and _SHORTENED.fullmatch(plain):
                raise ValueError(f"{error}: a spreadsheet has shortened it; show the column as a number") from None
            if plain.count(",") == 1 and codec.kind != "integer":
                raise ValueError(f"{error}; if the comma is a decimal comma, say decimal_comma=true") from None
            raise

    def _date(self, codec: Codec, text: str) -> Any:
        plain = text.strip()
        found = _DAY_FIRST_OR_NOT.fullmatch(plain)
        if found is None:
            value = codec.parse(plain)
        elif self._dates == "iso":
            raise ValueError("may begin with the day or the month; say dates=dmy or dates=mdy")
        else:
            value = self._local_date(codec, found)
        if codec.is_instant and value.tzinfo is None:
            return value.replace(tzinfo=timezone.utc)
        return value

    def _local_date(self, codec: Codec, found: re.Match[str]) -> Any:
        day, month = found["a"], found["b"]
        if self._dates == "mdy":
            day, month = month, day
        try:
            if codec.kind == "date":
                if found["hour"] is not None:
                    raise ValueError
                return date(int(found["year"]), int(month), int(day))
            hour = int(found["hour"] or 0)
            if found["half"] is not None:
                if not 1 <= hour <= 12:
                    raise ValueError
                hour = hour % 12 + (12 if found["half"] in "Pp" else 0)
            minute, second = int(found["minute"] or 0), int(found["second"] or 0)
            return datetime(int(found["year"]), int(month), int(day), hour, minute, second)  # noqa: DTZ001
        except ValueError:
            kind = "date" if codec.kind == "date" else "date and time"
            example = "31.01.2026" if self._dates == "dmy" else "1/31/2026"
            raise ValueError(f"is not a {kind} such as {example}") from None
