"""A class of routes that limit the body and answer exceptions themselves, whatever application they are mounted in."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from vstorage_core import TransactionConflict
from vstorage_rest.access import UNSAFE_METHODS
from vstorage_rest.failures import answer
from vstorage_rest.settings import RestSettings

EndpointT = TypeVar("EndpointT", bound=Callable[..., Any])
Shortcut = Callable[[Request], Coroutine[Any, Any, Response | None]]


def guarded_route(
    settings_of: Callable[[], RestSettings],
    setting: Literal["max_body_bytes", "max_upload_bytes"],
    *,
    attempts: int = 1,
) -> type[APIRoute]:
    """The class, for `APIRouter(route_class=…)`.

    Args:
        settings_of: Gives the settings of the plugin.
        setting: Which of them is the largest body; more is refused with 413, before it is read where the client tells
            its length, and else as soon as it is too long.
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
            shortcut: Shortcut | None = getattr(self.endpoint, "shortcut", None)

            async def respond(request: Request) -> Response:
                response = None if shortcut is None else await shortcut(request)
                return await handle(request) if response is None else response

            async def guarded(request: Request) -> Response:
                limited = Request(request.scope, _limited(request, settings_of(), setting))
                try:
                    for attempt in range(1, attempts):
                        try:
                            return await respond(limited)
                        except TransactionConflict:
                            await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 (no secret)
                    return await respond(limited)
                except HTTPException:
                    raise
                except Exception as error:
                    return answer(error, writes=request.method in UNSAFE_METHODS)

            return guarded

    return GuardedRoute


def with_shortcut(shortcut: Shortcut) -> Callable[[EndpointT], EndpointT]:
    """Decorates an endpoint of a guarded route: the shortcut answers plain requests, and gives None for the others.

    What FastAPI does for each declared parameter costs more than reading or writing a record. It still documents all of
    them, looks at the requests that have more than the shortcut knows, and says what is wrong with a request.
    """

    def decorate(endpoint: EndpointT) -> EndpointT:
        endpoint.shortcut = shortcut  # type: ignore[attr-defined]
        return endpoint

    return decorate


def _limited(request: Request, settings: RestSettings, setting: str) -> Callable[[], Coroutine[Any, Any, Message]]:
    max_bytes: int = getattr(settings, setting)
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
        limit = f"{max_bytes:,} bytes; the setting rest.{setting} says how large it may be"
        raise HTTPException(413, f"The body is larger than {limit}")

    return receive
