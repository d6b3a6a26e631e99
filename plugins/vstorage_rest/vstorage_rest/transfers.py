"""Exporters and importers over HTTP: what plugins declare once is a download or an upload here."""

# No `from __future__ import annotations`: FastAPI resolves the annotations of functions inside functions here.
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import PurePath
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.types import Receive, Scope, Send

from vstorage_core import Exporter, Importer, Storage
from vstorage_rest.access import TOKEN_IS_OPTIONAL, Caller
from vstorage_rest.failures import declared

CHUNK_BYTES = 256 * 1024
FILE_SCHEMA = {"type": "string", "format": "binary"}


class SpooledResponse(StreamingResponse):
    """Sends an open file and closes it, also when the client goes away before the first byte."""

    def __init__(self, spool: BinaryIO, size: int, headers: dict[str, str], media_type: str) -> None:
        super().__init__(_chunks(spool), headers={**headers, "Content-Length": str(size)}, media_type=media_type)
        self._spool = spool

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, as an ASGI application."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._spool.close()


def _chunks(spool: BinaryIO) -> Iterator[bytes]:
    while chunk := spool.read(CHUNK_BYTES):
        yield chunk


def add_exporter(router: APIRouter, storage: Storage, exporter: Exporter, caller_dependency: Any) -> None:
    """Serve an exporter at `GET /{filename}`; its options are query parameters."""
    Options = exporter.options

    def export(caller: Annotated[Caller, caller_dependency], options: Annotated[Options, Query()]) -> Response:
        def write(stream: BinaryIO) -> None:
            exporter.write(storage, stream, options)

        return download(write, exporter.filename, exporter.media_type)

    schema = {"type": "string"} if exporter.media_type.startswith("text/") else FILE_SCHEMA
    router.add_api_route(
        f"/{exporter.filename}",
        export,
        operation_id=f"export_{exporter.name}",
        summary=exporter.summary or f"Export {exporter.name}",
        response_class=Response,
        responses={
            200: {"content": {exporter.media_type: {"schema": schema}}, "description": exporter.filename},
            **declared(),
        },
        openapi_extra=TOKEN_IS_OPTIONAL,
    )


def download(write: Callable[[BinaryIO], None], filename: str, media_type: str) -> Response:
    """Answer with what `write` writes to the stream that it is given."""
    # A file first: a slow client must not keep a snapshot of the database open, and a failure is still a status.
    spool = tempfile.TemporaryFile()  # noqa: SIM115 (closed by the response)
    try:
        write(spool)
        size = spool.seek(0, 2)
        spool.seek(0)
    except BaseException:
        spool.close()
        raise
    return SpooledResponse(spool, size, _disposition(filename, media_type), media_type)


def _disposition(filename: str, media_type: str) -> dict[str, str]:
    # What a browser can show it shows.
    if media_type.startswith(("image/", "text/")) and media_type != "text/csv":
        return {}
    path = PurePath(filename)
    stamp = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    return {"Content-Disposition": f'attachment; filename="{path.stem}-{stamp}{path.suffix}"'}


def add_importer(router: APIRouter, storage: Storage, importer: Importer, caller_dependency: Any) -> None:
    """Serve an importer at `POST /{path}`; the file is the form field `file`, its options are query parameters."""
    Options = importer.options

    async def import_(
        request: Request, caller: Annotated[Caller, caller_dependency], options: Annotated[Options, Query()]
    ) -> Response:
        # Read here and not by FastAPI, which would take the whole upload before it asks who is calling.
        async with request.form(max_files=1) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise HTTPException(422, "Send the file as the form field 'file' (multipart/form-data)")

            def run() -> BaseModel:
                with caller.acting():
                    return importer.read(storage, file.file, options)

            report = await run_in_threadpool(run)
        return Response(report.model_dump_json(), media_type="application/json")

    upload = {"type": "object", "properties": {"file": FILE_SCHEMA}, "required": ["file"]}
    router.add_api_route(
        f"/{importer.path}",
        import_,
        methods=["POST"],
        operation_id=f"import_{importer.name}",
        summary=importer.summary or f"Import {importer.name}",
        response_model=importer.report,
        responses=declared(400, 409, 413),
        openapi_extra={"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": upload}}}}
        | TOKEN_IS_OPTIONAL,
    )
