"""Everything that an application gets when it is bootstrapped with this plugin installed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from vstorage_core import ConfigurationError, ModelAccessor, Storage
from vstorage_rest.docs_pages import serve_docs_from_here
from vstorage_rest.router_database import build_db_router
from vstorage_rest.router_model import build_crud_router


def build_routers(
    storage: Storage, accessors: Sequence[ModelAccessor[Any]], max_records_per_model: int | None, enable_db_router: bool
) -> list[APIRouter]:
    """The routers of a storage: its life, its records, `/db`.

    Raises:
        ConfigurationError: Two components are so alike that their operation ids in the OpenAPI document are the same.
    """
    exporters = storage.exporters.values()
    routers = [
        build_crud_router(accessor, max_records=max_records_per_model, exporters=exporters) for accessor in accessors
    ]
    if enable_db_router:
        routers.append(build_db_router(storage=storage))
    _refuse_equal_operation_ids(routers)
    return [_lifespan_router(storage), *routers]


def _lifespan_router(storage: Storage) -> APIRouter:
    """No routes; FastAPI runs the lifespan of an included router with the application's own."""

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        await run_in_threadpool(storage.start)
        if isinstance(app, FastAPI):
            serve_docs_from_here(app)
        yield
        # Tests start and stop one application many times; a database in memory would be gone with its connection.
        if not storage.is_in_memory:
            await run_in_threadpool(storage.close)

    return APIRouter(lifespan=lifespan)


def _refuse_equal_operation_ids(routers: Sequence[APIRouter]) -> None:
    paths: dict[str | None, str] = {}
    for router in routers:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.include_in_schema:
                other = paths.setdefault(route.operation_id, route.path)
                if other is not route.path:
                    raise ConfigurationError(
                        f"{other} and {route.path} would both be the operation {route.operation_id!r} for clients made"
                        " from the OpenAPI document; rename one of the components"
                    )
