"""Whether the machine is well: routes for people, supervisors and monitoring."""

# No `from __future__ import annotations`: FastAPI resolves the annotations of functions inside functions here.
import importlib.util
from typing import Annotated, Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from sqlalchemy import literal, select

from vstorage_core import Storage, StorageError
from vstorage_core.records import encode_snapshot
from vstorage_rest.access import TOKEN_IS_OPTIONAL, Caller
from vstorage_rest.failures import declared
from vstorage_rest.metrics import metrics_text


class Status(BaseModel):
    """`ok`, or what is wrong in a word."""

    status: str


class HealthReport(BaseModel):
    """Whether the storage works, and what each check says."""

    status: str
    checks: dict[str, dict[str, Any]]


def add_health(router: APIRouter, storage: Storage, metrics_caller: Any) -> None:
    """Add `GET /health`, `/live` and `/ready`, and `/metrics` where prometheus_client is installed."""

    @router.get(
        "/health",
        operation_id="get_health",
        response_model=HealthReport,
        responses={503: {"model": HealthReport, "description": "A check failed"}},
    )
    def health() -> Response:
        """Ask the database and every plugin's check."""
        report = storage.health()
        body = {"status": "ok" if report.ok else "unavailable", "checks": report.checks}
        return Response(encode_snapshot(body), 200 if report.ok else 503, media_type="application/json")

    @router.get("/live", operation_id="get_live")
    async def live() -> Status:
        """Answer, whatever the database does: a supervisor restarts a process that does not."""
        return Status(status="ok")

    @router.get(
        "/ready",
        operation_id="get_ready",
        response_model=Status,
        responses={503: {"model": Status, "description": "The database does not answer"}},
    )
    def ready() -> Response:
        """Say whether the database answers: a balancer sends no requests while it does not."""
        try:
            with storage.snapshot() as connection:
                connection.execute(select(literal(1)))
        except StorageError:
            return JSONResponse({"status": "unavailable"}, 503)
        return JSONResponse({"status": "ok"})

    if importlib.util.find_spec("prometheus_client") is not None:

        @router.get(
            "/metrics",
            operation_id="get_metrics",
            response_class=Response,
            responses={
                200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus text"},
                **declared(),
            },
            openapi_extra=TOKEN_IS_OPTIONAL,
        )
        def metrics(caller: Annotated[Caller, metrics_caller]) -> Response:
            """Tell health, records and changes in the text format of Prometheus."""
            return Response(metrics_text(storage), media_type="text/plain; version=0.0.4")
