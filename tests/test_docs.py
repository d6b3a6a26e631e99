"""What the documentation promises: it is complete and current, and reads without a network."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import vstorage_core

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
MADE = sorted(path.stem for path in (DOCS / "generate").glob("*.py") if not path.stem.startswith("_"))
CODE = [*ROOT.glob("vstorage_core/**/*.py"), *ROOT.glob("plugins/*/vstorage_*/**/*.py")]
# What a browser fetches by itself; links are followed by people.
FETCHED = re.compile(
    r"""<(?:script|img|iframe|source|embed)\b[^>]*?\ssrc=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|<link\b[^>]*?\shref=["']?(?:https?:)?//[^\s"'>]+"""
    r"""|@import\s+(?:url\()?["']?(?:https?:)?//[^\s"')]+"""
    r"""|url\(["']?(?:https?:)?//[^\s"')]+""",
    re.IGNORECASE,
)


def run(*arguments: str | Path) -> None:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.sources
def test_the_site_builds_without_a_warning_and_fetches_nothing_from_elsewhere(tmp_path):
    site = tmp_path / "site"
    run("-m", "sphinx", "-c", "docs", "--fail-on-warning", "--keep-going", "-d", tmp_path / "doctrees", ".", site)
    assert (site / "index.html").exists()
    assert (site / "docs" / "quickstart.html").exists()
    fetched = {
        (path.name, found)
        for path in site.rglob("*")
        if path.suffix in (".html", ".css", ".js", ".svg")
        for found in FETCHED.findall(path.read_text(encoding="utf-8"))
    }
    assert fetched == set()
    for readme in ROOT.glob("plugins/*/README.md"):
        assert f"plugins/{readme.parent.name}/README.html" in (site / "docs" / "index.html").read_text()


def test_the_pages_that_are_made_from_the_code_are_current(tmp_path):
    run("-m", "docs.generate", tmp_path)
    assert sorted(path.stem for path in tmp_path.iterdir()) == MADE
    stale = [name for name in MADE if page_in(DOCS, name) != page_in(tmp_path, name)]
    assert stale == [], "run: make reference"


def page_in(folder: Path, name: str) -> str:
    return folder.joinpath(f"{name}.md").read_text(encoding="utf-8")


def test_the_python_page_has_every_public_name():
    page = page_in(DOCS, "python")
    assert [name for name in vstorage_core.__all__ if not re.search(rf"\b{name}\b", page)] == []


def test_the_settings_page_has_every_section():
    code = "\n".join(path.read_text(encoding="utf-8") for path in CODE)
    sections = set(re.findall(r"\.settings\(\s*\"(\w+)\"", code))
    assert sections >= {"engine", "rest"}
    assert {section for section in sections if f"## Section `{section}`" not in page_in(DOCS, "settings")} == set()


def said() -> list[str]:
    """Every text in the code of the project; of an f-string each part between its values."""
    return [
        node.value
        for path in CODE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def test_what_troubleshooting_explains_is_what_the_code_says():
    page = page_in(DOCS, "troubleshooting")
    rows = re.findall(r"^\| (?:\d+ )?`(.+?)`.* \| .* \|$", page, re.M)
    assert len(rows) > 40
    texts = said()
    unknown = [
        sentence
        for sentence in rows
        for part in sentence.split("…")
        if part.strip() and not any(part.strip(" :") in text for text in texts)
    ]
    assert unknown == []
