"""FastAPI's `/docs` and `/redoc` where there is no internet."""

import re
import shutil
import subprocess

import pytest
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.testclient import TestClient

from vstorage_core import bootstrap
from vstorage_rest import plugin

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture
def components():
    return ["users"]


@pytest.fixture
def bootstrapped(open_storage, make_database):
    """Bootstraps an application of the test's own; it starts when its client is used as a context manager."""

    def bootstrapped_(app, **options):
        bootstrap(app, accessors=[], storage=open_storage(make_database("sqlite"), plugins=[plugin]))
        return TestClient(app, **options)

    return bootstrapped_


def loaded_by(page):
    return re.findall(r"""(?:src|href|spec-url)="([^"]+)"|url: '([^']+)'""", page)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium")
@pytest.mark.parametrize("page", ["/docs", "/redoc"])
def test_a_browser_that_reaches_only_the_machine_shows_the_operations(machine, tmp_path, page):
    with machine.served() as address:
        done = subprocess.run(
            [
                *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"),
                *("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--virtual-time-budget=20000"),
                *("--dump-dom", address + page),
            ],
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    assert "Create user" in done.stdout


@pytest.mark.parametrize("page", ["/docs", "/redoc"])
@pytest.mark.parametrize("root_path", ["", "/filler"])
def test_whatever_the_pages_load_comes_from_the_machine(bootstrapped, page, root_path):
    with bootstrapped(FastAPI(), root_path=root_path) as client:
        paths = ["".join(found) for found in loaded_by(client.get(page).text)]
        answers = {path: client.get(path) for path in paths}
    assert any(path.endswith(".js") for path in paths)
    for path, answer in answers.items():
        assert path.startswith(f"{root_path}/")
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("page", "script"), [("/docs", "/docs/assets/swagger-ui.css"), ("/", "/assets/swagger-ui.css")]
)
def test_an_application_that_answers_every_other_path_hides_no_scripts(bootstrapped, page, script):
    app = FastAPI(docs_url=page)
    app.mount("/", FastAPI())
    with bootstrapped(app) as client:
        assert script in client.get(page).text
        assert client.get(script).status_code == 200


def test_pages_of_the_application_s_own_stay_as_they_are(bootstrapped):
    app = FastAPI(docs_url=None, redoc_url=None)
    app.get("/docs", include_in_schema=False)(lambda: HTMLResponse("our own"))
    with bootstrapped(app) as client:
        assert client.get("/docs").text == "our own"
        assert client.get("/redoc").status_code == 404


def test_an_application_may_start_again(bootstrapped):
    client = bootstrapped(FastAPI())
    for _ in range(2):
        with client:
            assert client.get("/docs/assets/swagger-ui.css").status_code == 200
