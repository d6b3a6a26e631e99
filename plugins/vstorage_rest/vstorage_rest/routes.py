"""A class of routes that limit the body and answer exceptions themselves, whatever application they are mounted in."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from vstorage_core import TransactionConflict
from vstorage_rest.access import UNSAFE_METHODS
from vstorage_rest.failures import answer


def guarded_route(max_bytes: Callable[[], int], *, attempts: int = 1) -> type[APIRoute]:
    """The class, for `APIRouter(route_class=…)`.

    Args:
        max_bytes: Tells the largest body; more is refused with 413, before it is read where the client tells its
            length, and else as soon as it is too long.
        attempts: How often to run a request whose transaction the database undid because others stood in the way.
    """

    methods_of: dict[str, set[str]] = {}

    class GuardedRoute(APIRoute):
        def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
            # FastAPI's would be the function's name, which is the same for all models.
            named = options.get("operation_id")
            options["summary"] = options.get("summary") or (named and named.replace("_", " ").capitalize())
            super().__init__(path, endpoint, **options)
            self._answers = set(self.methods or ())
            if self.include_in_schema:
                methods_of.setdefault(path, set()).update(self._answers, {"HEAD"} if "GET" in self._answers else ())

        async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
            # Not a method of the route, or FastAPI would describe the operation twice. Servers send no body to HEAD.
            if scope["method"] == "HEAD":
                scope = {**scope, "method": "GET"}
            if scope["method"] in self._answers:
                await super().handle(scope, receive, send)
                return
            # Starlette would tell the methods of the first route with this path only.
            allowed = {"Allow": ", ".join(sorted(methods_of[self.path]))}
            await JSONResponse({"detail": "Method Not Allowed"}, 405, allowed)(scope, receive, send)

        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def guarded(request: Request) -> Response:
                limited = Request(request.scope, _limited(request, max_bytes()))
                try:
                    for attempt in range(1, attempts):
                        try:
                            return await handle(limited)
                        except TransactionConflict:
                            await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 (no secret)
                    return await handle(limited)
                except HTTPException:
                    raise
                except Exception as error:
                    return answer(error, writes=request.method in UNSAFE_METHODS)

            return guarded

    return GuardedRoute


def _limited(request: Request, max_bytes: int) -> Callable[[], Coroutine[Any, Any, Message]]:
    told = request.headers.get("content-length", "")
    expected = int(told) if told.isdecimal() else 0
    received = 0

    async def receive() -> Message:
        nonlocal received
        if expected <= max_bytes:
            message = await request.receive()
            received += len(message.get("body", b""))
            if received <= max_bytes:
                return message
        raise HTTPException(413, f"The body is larger than {max_bytes:,} bytes")

    return receive
