"""A client that a public generator makes from the OpenAPI document of the example machine."""

import subprocess
import sys
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = Path(__file__).with_name("typed_client.py")
CONFIGURATION = """
post_hooks: []
content_type_overrides:
  application/vnd.apache.parquet: application/octet-stream
  application/vnd.sqlite3: application/octet-stream
  application/x-ndjson: application/octet-stream
  application/zip: application/octet-stream
  image/svg+xml: application/octet-stream
"""


TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def address(tmp_path, monkeypatch):
    """Of the example machine, served as `make demo` does."""
    monkeypatch.setenv("VSTORAGE_ADMIN_TOKEN", TOKEN)
    command = [sys.executable, ROOT / "examples" / "machine.py", "--port", "0", "--folder", tmp_path / "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            yield server.stdout.readline().split("served at ")[1].split(". ")[0]
        finally:
            server.terminate()


def run(folder, *command):
    done = subprocess.run([sys.executable, *command], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_generated_client_is_typed_and_works(tmp_path, address):
    (tmp_path / "openapi.json").write_bytes(httpx.get(f"{address}/openapi.json", timeout=60).content)
    (tmp_path / "generator.yml").write_text(CONFIGURATION)
    generate = ["-m", "openapi_python_client", "generate", "--meta=none", "--fail-on-warning"]
    run(tmp_path, *generate, "--path=openapi.json", "--config=generator.yml", "--output-path=filling_machine_client")
    (tmp_path / "program.py").write_text(PROGRAM.read_text())
    run(tmp_path, "-m", "mypy", "--strict", "--config-file=", "program.py", "filling_machine_client")
    run(tmp_path, "program.py", address, TOKEN)
