"""The web API of vstorage: CRUD routers with OpenAPI, audit queries, health, served exporters and importers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vstorage_rest.router_database import build_db_router
    from vstorage_rest.router_model import build_crud_router

__all__ = ["build_crud_router", "build_db_router"]


def __getattr__(name: str) -> Any:
    # Lazily, so that the command line does not load the web framework to export a file.
    if name == "build_crud_router":
        from vstorage_rest.router_model import build_crud_router

        return build_crud_router
    if name == "build_db_router":
        from vstorage_rest.router_database import build_db_router

        return build_db_router
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
