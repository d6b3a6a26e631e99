"""Column types in words that a machine builder reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy
from sqlalchemy.types import TypeDecorator, TypeEngine
from sqlmodel.sql.sqltypes import UTCDateTime

# The first that fits: SQLAlchemy's Enum is a String, its Float may be a Numeric, its Interval a TypeDecorator.
_WORDS: tuple[tuple[type[TypeEngine[Any]], str], ...] = (
    (UTCDateTime, "datetime"),
    (sqlalchemy.Interval, "duration"),
    (sqlalchemy.PickleType, "binary"),
    (sqlalchemy.Enum, "enum"),
    (sqlalchemy.Boolean, "boolean"),
    (sqlalchemy.BigInteger, "big integer"),
    (sqlalchemy.SmallInteger, "small integer"),
    (sqlalchemy.Integer, "integer"),
    (sqlalchemy.Float, "float"),
    (sqlalchemy.Numeric, "decimal"),
    (sqlalchemy.DateTime, "datetime"),
    (sqlalchemy.Date, "date"),
    (sqlalchemy.Time, "time"),
    (sqlalchemy.Uuid, "uuid"),
    (sqlalchemy.LargeBinary, "binary"),
    (sqlalchemy.JSON, "json"),
    (sqlalchemy.String, "text"),
)


def type_name(kind: TypeEngine[Any]) -> str:
    """The type in plain words, the same for every database: `text(40)`, `integer`, `decimal(8,2)`, `list of text`."""
    words = next((words for known, words in _WORDS if isinstance(kind, known)), None)
    if words is None and isinstance(kind, TypeDecorator):
        return type_name(kind.impl_instance)
    if isinstance(kind, sqlalchemy.ARRAY):
        return f"list of {type_name(kind.item_type)}"
    if words is None:
        return type(kind).__name__.lower()
    if isinstance(kind, sqlalchemy.String) and words == "text" and kind.length:
        return f"text({kind.length})"
    if isinstance(kind, sqlalchemy.Numeric) and words == "decimal" and kind.precision is not None:
        return f"decimal({kind.precision},{kind.scale or 0})"
    return words


def enum_values(kind: TypeEngine[Any]) -> Sequence[str]:
    """The values that an enum may have, as the database keeps them; nothing for other types."""
    if isinstance(kind, TypeDecorator):
        return enum_values(kind.impl_instance)
    return list(kind.enums) if isinstance(kind, sqlalchemy.Enum) else []
