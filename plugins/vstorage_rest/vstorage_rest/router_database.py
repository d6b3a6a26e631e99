"""The routes below /db: health, plugins, the audit trail, and whatever the plugins export and import."""

# No `from __future__ import annotations`: FastAPI resolves the annotations of functions inside functions here.
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel

from vstorage_core import Storage
from vstorage_core.database import default_storage
from vstorage_rest.access import TOKEN_IS_OPTIONAL, AdminToken, Caller, caller_for
from vstorage_rest.failures import declared, described
from vstorage_rest.json_types import Text
from vstorage_rest.router_health import add_health
from vstorage_rest.routes import guarded_route
from vstorage_rest.settings import rest_settings
from vstorage_rest.trail import (
    Actor,
    AuditRecord,
    Count,
    Cursor,
    Offset,
    OfOperation,
    Since,
    Until,
    trail_conditions,
    trail_page,
)
from vstorage_rest.transfers import add_exporter, add_importer


class PluginRecord(BaseModel):
    """One loaded plugin."""

    name: str
    distribution: str | None
    version: str | None
    hooks: list[str]
    exporters: list[str]
    importers: list[str]
    routes: list[str]


def build_db_router(
    *, audit_default_limit: int = 100, audit_max_limit: int = 1000, storage: Storage | None = None
) -> APIRouter:
    """Routes below `/db`: health, plugins, the audit trail, exporters and importers.

    Args:
        audit_default_limit: Rows of an audit page when the client names no limit.
        audit_max_limit: Most rows of an audit page.
        storage: The database; by default the default storage at the time of this call.

    Raises:
        PluginConflictError: Two exporters or importers have the same path.
    """
    served = storage or default_storage()
    settings = rest_settings(served)
    router = APIRouter(prefix="/db", tags=["db"], route_class=guarded_route(lambda: settings, "max_upload_bytes"))

    def caller_of(action: str, component: str = "db", *, writes: bool = False) -> Any:
        admit = caller_for(lambda: served, action, component, writes=writes)

        # The token is checked by `admit`; the parameter puts it in the OpenAPI document.
        def admitted(caller: Annotated[Caller, Depends(admit)], _token: Annotated[Any, AdminToken]) -> Caller:
            return caller

        return Depends(admitted)

    add_health(router, served, caller_of("db.metrics"))
    _add_plugins(router, served, caller_of)
    _add_audit(router, served, caller_of, audit_default_limit, audit_max_limit)
    for exporter in served.exporters.values():
        add_exporter(router, served, exporter, caller_of(f"db.{exporter.action}", exporter.name))
    for importer in served.importers.values():
        add_importer(router, served, importer, caller_of(f"db.{importer.action}", importer.name, writes=True))
    return router


def _add_plugins(router: APIRouter, storage: Storage, caller_of: Callable[..., Any]) -> None:
    @router.get("/plugins", operation_id="list_plugins", responses=declared(), openapi_extra=TOKEN_IS_OPTIONAL)
    def plugins(caller: Annotated[Caller, caller_of("db.plugins")]) -> list[PluginRecord]:
        """List the loaded plugins in the order in which their hooks run."""
        return [PluginRecord.model_validate(plugin._asdict()) for plugin in storage.plugins()]


def _add_audit(
    router: APIRouter, storage: Storage, caller_of: Callable[..., Any], default_limit: int, max_limit: int
) -> None:
    @router.get(
        "/audit",
        operation_id="list_audit",
        response_model=list[AuditRecord],
        responses={200: {"headers": described("Link", "X-Total-Count")}, **declared()},
        openapi_extra=TOKEN_IS_OPTIONAL,
    )
    def read_audit(
        request: Request,
        caller: Annotated[Caller, caller_of("db.audit")],
        component: Annotated[Text | None, Query(description="Only this component")] = None,
        record_id: Annotated[Text | None, Query(description="Only the record with this key")] = None,
        actor: Actor = None,
        operation: OfOperation = None,
        since: Since = None,
        until: Until = None,
        limit: Annotated[int, Query(ge=1, le=max_limit, description="Most rows of one page")] = default_limit,
        offset: Offset = 0,
        cursor: Cursor = None,
        count: Count = False,
    ) -> Response:
        """Read the audit trail, newest first; `Link` leads to the next page."""
        conditions = trail_conditions(
            component=component, record_id=record_id, actor=actor, operation=operation, since=since, until=until
        )
        return trail_page(storage, conditions, request.url, limit=limit, offset=offset, cursor=cursor, count=count)
