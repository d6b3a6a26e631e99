"""`vstorage serve`: a module of models under uvicorn, with no further code."""

from __future__ import annotations

import contextlib
import gc
import socket
from typing import Any

import click

from vstorage_core import Storage, bootstrap
from vstorage_core.bootstrap import claimed_routes


@click.command()
@click.argument("target", metavar="MODULE[:NAME]")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on; 0.0.0.0 for all.")
@click.option(
    "--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="Port; 0 picks a free one."
)
@click.option(
    "--url",
    metavar="URL",
    help="The database.  [default: the module's own, $VSTORAGE_DATABASE_URL, or sqlite:///./storage.db]",
)
@click.option(
    "--max-records", type=click.IntRange(min=0), help="Records per component that clients may create.  [default: any]"
)
@click.pass_obj
def serve(context: Any, target: str, host: str, port: int, url: str | None, max_records: int | None) -> None:
    """Serve models as a web API with audit trail and all installed plugins.

    MODULE is imported from the current folder or the installed packages. It has a FastAPI application, or accessors,
    or just SQLModel tables; NAME picks one of them, or a function that returns one. Missing tables are created.
    Ctrl-C stops.
    """
    try:
        import uvicorn
    except ModuleNotFoundError as error:
        raise click.ClickException(f"serving needs {error.name}: pip install 'vstorage-core[rest]'") from error
    with _listen(host, port) as listener, context.open_application(target, url) as application:
        app = _bootstrapped(application, max_records)
        _announce(listener, application.storage())
        server = uvicorn.Server(
            uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=10, proxy_headers=False)
        )
        # What is loaded stays: the collector would stop all requests to look through it, again and again.
        gc.collect()
        gc.freeze()
        # How uvicorn ends after Ctrl-C, and when the application's own start fails.
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            server.run(sockets=[listener])
        if not server.started:
            raise click.ClickException(f"{target} did not start; the reason stands above")


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except OSError as error:
        raise click.ClickException(
            f"cannot listen on {host}, port {port}: {error.strerror}; choose another with --port, 0 picks a free one"
        ) from error
    # asyncio does it only for sockets that it opens itself. Without it each answer on a connection that is kept waits
    # 40 ms for the client to confirm its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _bootstrapped(application: Any, max_records: int | None) -> Any:
    """The web application, wired to its storage; a new one where the module has none."""
    if claimed_routes(application.web):
        if max_records is not None:
            raise click.UsageError(
                f"{application.name} calls bootstrap itself; give max_records_per_model there, not --max-records"
            )
        return application.web
    if not application.accessors:
        raise click.UsageError(f"{application.name} has neither accessors nor table models to serve")
    for sentence in application.skipped:
        click.echo(f"Not served: {sentence}", err=True)
    app = application.web
    if app is None:
        from fastapi import FastAPI

        app = FastAPI(title=application.name)
    bootstrap(app, accessors=application.accessors, storage=application.storage(), max_records_per_model=max_records)
    return app


def _announce(listener: socket.socket, storage: Storage) -> None:
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):  # noqa: S104 (what was asked for, shown as an address that can be opened)
        host = "127.0.0.1"
    address = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    click.echo(f"Serving {storage.url}. Open:")
    offered = {
        "/docs": "try the API",
        **{f"/{accessor.component}/": "records" for accessor in storage.accessors},
        "/db/health": "is it well?",
        **{f"/db/{exporter.filename}": exporter.summary for exporter in storage.exporters.values()},
    }
    width = max(map(len, offered))
    for path, what in offered.items():
        click.echo(f"  {address}{path:<{width}}  {what}")
    click.echo("Ctrl-C stops.")
