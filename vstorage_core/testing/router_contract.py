"""What every router must do: be documented, stand in nobody's way, survive any request, keep outsiders out of /db.

Needs fastapi and what its test client needs: `pip install 'vstorage-core[testing,rest]' httpx2`.
"""

import importlib.metadata
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import pytest

from vstorage_core import Storage, bootstrap
from vstorage_core.plugins import ENTRY_POINT_GROUP, LoadedPlugin, routes_of
from vstorage_core.testing.machine import PluginFixtures, accessors_of, entry_point_of

WEB_FRAMEWORKS = ("aiohttp", "django", "fastapi", "flask", "starlette", "uvicorn")
_LOADED = (
    f"import importlib, sys; importlib.import_module(sys.argv[1]); print(*{{*{WEB_FRAMEWORKS}}} & {{*sys.modules}})"
)
Operation = tuple[str, str, Mapping[str, Any] | None]
ODD_VALUES = ("%00", "..%2F%F0%9F%92%A3", "9" * 400)
ODD_BODIES = (
    ("application/json", b"{"),
    ("application/json", b'{"a": NaN, "id": 1e999, "\\ud800": "\\ud800"}'),
    ("application/json", b"[" * 3000),
    ("text/plain", b"\xff\xfe"),
    ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\n--x"),
)


class RouterContract(PluginFixtures):
    """The contract of every plugin that serves routes.

    Attributes:
        open_paths: Paths below /db that everybody may ask, because they give nothing away.
        undocumented: Routes that are left out of the OpenAPI document on purpose, e.g. `GET /old`.
    """

    open_paths: Collection[str] = ()
    undocumented: Collection[str] = ()

    @pytest.fixture
    def headers(self) -> Mapping[str, str]:
        """What a caller sends who may do everything."""
        return {"X-User": "kit"}

    @pytest.fixture
    def app(self, machine: Storage) -> Any:
        """An application with one component."""
        from fastapi import FastAPI

        app = FastAPI()
        bootstrap(app, accessors=[accessors_of(machine)[1]], storage=machine, max_records_per_model=None)
        return app

    @pytest.fixture
    def operations(self, app: Any, machine: Storage, plugin: object) -> list[Operation]:
        """Method, path and OpenAPI description of each route of the plugin that answers requests."""
        paths = app.openapi()["paths"]
        (name,) = (loaded.name for loaded in machine.plugin_registry.loaded if loaded.plugin is plugin)
        served = machine.plugin_registry.routes.get(name, ())
        assert served, "it serves no route"
        found = [
            (method, re.sub(r":\w+}", "}", path)) for method, _, path in (route.partition(" ") for route in served)
        ]
        return [(method, path, paths.get(path, {}).get(method.lower())) for method, path in found if method != "*"]

    def test_importing_it_loads_no_web_framework(self, plugin: object) -> None:
        module = getattr(plugin, "__name__", type(plugin).__module__)
        done = subprocess.run(  # noqa: S603 (this very Python)
            [sys.executable, "-c", _LOADED, module],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stdout.split()) == (0, []), (
            f"{done.stderr}a machine without a web API does not have it; import it inside vstorage_register_routers"
        )

    def test_every_route_is_documented_under_an_id_of_its_own(self, app: Any, operations: list[Operation]) -> None:
        missing = {f"{method} {path}" for method, path, operation in operations if operation is None}
        assert missing - {*self.undocumented} == set(), "not in the OpenAPI document, so that no client is made for it"
        ids = Counter(
            operation["operationId"] for methods in app.openapi()["paths"].values() for operation in methods.values()
        )
        assert [name for name, count in ids.items() if count > 1] == []

    def test_it_hides_no_route_of_the_web_api(
        self, plugin: object, companions: Sequence[object], config: Mapping[str, Mapping[str, Any]]
    ) -> None:
        from starlette.routing import Match

        rest = next(iter(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP, name="rest")), None)
        if rest is None or rest.load() is plugin:
            pytest.skip("needs vstorage_rest beside the plugin")
        own = entry_point_of(plugin)
        # Under the name that it is installed under: names make the order.
        installed, given = ([rest, own], []) if own else ([rest], [plugin])
        given += [other for other in companions if other is not rest.load()]
        hidden: list[str] = []
        earlier: list[Any] = []
        with Storage("sqlite://", entry_points=installed, plugins=given, config=config) as storage:
            contributed: list[tuple[LoadedPlugin, Any]] = storage.plugin_registry.collect(
                "vstorage_register_routers",
                storage=storage,
                accessors=accessors_of(storage),
                max_records_per_model=None,
                enable_db_router=True,
            )
        for provider, router in contributed:
            if provider.plugin is plugin:
                earlier += router.routes
            elif provider.name == "rest":
                for method, path in routes_of(router):
                    request = {**_REQUEST, "method": method, "path": path}
                    hidden += [path for route in earlier if route.matches(request)[0] == Match.FULL]
        assert hidden == [], "paths of vstorage_rest that this plugin answers first"

    def test_no_request_makes_it_fail(self, app: Any, operations: list[Operation], headers: Mapping[str, str]) -> None:
        from fastapi.testclient import TestClient

        failed = []
        with TestClient(
            app,
            base_url="http://localhost",
            client=("127.0.0.1", 50000),
            headers=dict(headers),
            raise_server_exceptions=False,
        ) as client:
            for method, path, operation in operations:
                for url, content_type, body in _odd_requests(method, path, operation or {}):
                    answer = client.request(method, url, content=body, headers={"Content-Type": content_type})
                    if answer.status_code == 500:
                        failed.append(f"{method} {url[:200]} with {content_type} {body[:50]!r}")
        assert failed == [], "answered with 500"

    def test_outsiders_stay_out_of_db(self, app: Any, operations: list[Operation]) -> None:
        from fastapi.testclient import TestClient

        with TestClient(app, base_url="http://machine.example", client=("192.0.2.7", 50000)) as outsider:
            let_in = [
                f"{method} {path}"
                for method, path, _ in operations
                if path.startswith("/db/")
                and path not in self.open_paths
                and outsider.request(method, _filled(path, "1")).status_code not in (401, 403)
            ]
        assert let_in == [], "open to everybody on the network"


_REQUEST = {"type": "http", "root_path": "", "headers": [], "query_string": b""}


def _filled(path: str, value: str) -> str:
    return re.sub(r"{[^}]*}", value, path)


def _odd_requests(method: str, path: str, operation: Mapping[str, Any]) -> Iterator[tuple[str, str, bytes]]:
    names = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"]
    for value in ODD_VALUES:
        query = "&".join(f"{name}={value}" for name in (*names, "no_such_parameter"))
        yield f"{_filled(path, value)}?{query}", "application/json", b""
    if method in ("POST", "PUT", "PATCH"):
        for content_type, body in ODD_BODIES:
            yield _filled(path, "1"), content_type, body
