"""What the plugin exports: the schema as a picture and in two text forms.

What draws is imported when something is drawn: a machine that starts does not wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from vstorage_core import Storage

if TYPE_CHECKING:
    from vstorage_diagram.schema import Schema


class DiagramOptions(BaseModel):
    """Options of the diagram in all its forms."""

    model_config = ConfigDict(extra="forbid")

    tables: list[str] | None = Field(default=None, description="Names of the tables; default: all")
    audit: bool = Field(default=False, description="Whether the audit trail's table is drawn too")


def write_svg(storage: Storage, stream: BinaryIO, options: DiagramOptions) -> None:
    """Draw the schema as SVG.

    Raises:
        InvalidInput: An option names a table that does not exist.
    """
    from vstorage_diagram.layout import lay_out
    from vstorage_diagram.svg import svg

    schema = _chosen(storage, options)
    for piece in svg(schema, lay_out(schema)):
        stream.write(piece.encode())


def write_mermaid(storage: Storage, stream: BinaryIO, options: DiagramOptions) -> None:
    """Describe the schema in Mermaid's language; raises as `write_svg` does."""
    from vstorage_diagram.text import mermaid

    for piece in mermaid(_chosen(storage, options)):
        stream.write(piece.encode())


def write_dot(storage: Storage, stream: BinaryIO, options: DiagramOptions) -> None:
    """Describe the schema in Graphviz's language; raises as `write_svg` does."""
    from vstorage_diagram.text import dot

    for piece in dot(_chosen(storage, options)):
        stream.write(piece.encode())


def _chosen(storage: Storage, options: DiagramOptions) -> Schema:
    from vstorage_diagram.schema import read_schema

    return read_schema(storage, options.tables, audit=options.audit)
