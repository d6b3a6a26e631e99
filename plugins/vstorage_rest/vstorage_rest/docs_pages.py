"""FastAPI's `/docs` and `/redoc` on a machine without internet."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import FastAPI
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

Page = Callable[[Request], Awaitable[Response]]


def serve_docs_from_here(app: FastAPI) -> None:
    """Let the pages that FastAPI made load their scripts from this server instead of a CDN.

    Pages that the application made itself stay as they are.
    """
    routes = app.router.routes
    scripts = StaticFiles(packages=[("fastapi_offline", "static")])
    for path, page_of in ((app.docs_url, _swagger_ui), (app.redoc_url, _redoc)):
        for route in [route for route in routes if isinstance(route, Route) and route.path == path]:
            if route.endpoint.__module__ != FastAPI.__module__:
                continue
            assets = f"{route.path.rstrip('/')}/assets"
            # In its place, or an application that mounts a page of its own at / would hide the scripts.
            place = routes.index(route)
            routes[place : place + 1] = [
                Mount(assets, scripts),
                Route(route.path, page_of(app, assets), include_in_schema=False),
            ]


def _swagger_ui(app: FastAPI, assets: str) -> Page:
    async def page(request: Request) -> Response:
        root = _root_path(request)
        redirect = app.swagger_ui_oauth2_redirect_url
        return get_swagger_ui_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} - Swagger UI",
            oauth2_redirect_url=redirect and f"{root}{redirect}",
            init_oauth=app.swagger_ui_init_oauth,
            swagger_ui_parameters=app.swagger_ui_parameters,
            swagger_js_url=f"{root}{assets}/swagger-ui-bundle.js",
            swagger_css_url=f"{root}{assets}/swagger-ui.css",
            swagger_favicon_url=f"{root}{assets}/favicon.png",
        )

    return page


def _redoc(app: FastAPI, assets: str) -> Page:
    async def page(request: Request) -> Response:
        root = _root_path(request)
        return get_redoc_html(
            openapi_url=f"{root}{app.openapi_url}",
            title=f"{app.title} - ReDoc",
            redoc_js_url=f"{root}{assets}/redoc.standalone.js",
            redoc_favicon_url=f"{root}{assets}/favicon.png",
            with_google_fonts=False,
        )

    return page


def _root_path(request: Request) -> str:
    """Where a proxy serves the application."""
    root: str = request.scope.get("root_path", "")
    return root.rstrip("/")
