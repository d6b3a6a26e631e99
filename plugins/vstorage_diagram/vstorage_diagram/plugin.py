"""What vstorage_diagram contributes, for pluggy."""

from __future__ import annotations

from collections.abc import Iterable

from vstorage_core import Exporter, hookimpl
from vstorage_diagram.exporters import DiagramOptions, write_dot, write_mermaid, write_svg

EXPORTERS = (
    Exporter(
        name="diagram",
        filename="diagram.svg",
        media_type="image/svg+xml",
        write=write_svg,
        options=DiagramOptions,
        summary="A picture of the tables and how they refer to each other",
    ),
    Exporter(
        name="mermaid",
        filename="diagram.mmd",
        media_type="text/vnd.mermaid",
        write=write_mermaid,
        options=DiagramOptions,
        summary="The diagram as text for Mermaid",
    ),
    Exporter(
        name="dot",
        filename="diagram.dot",
        media_type="text/vnd.graphviz",
        write=write_dot,
        options=DiagramOptions,
        summary="The diagram as text for Graphviz",
    ),
)


@hookimpl
def vstorage_register_exporters() -> Iterable[Exporter]:
    return EXPORTERS
