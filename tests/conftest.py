"""Plugins made for a test."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

IMPORTS = """
from vstorage_core import Exporter, HealthCheck, Importer, hookimpl, hookspec
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Puts a distribution on sys.path as pip does: `*.dist-info` with entry points, and the plugin's module.

    Nothing else that is installed on this machine is loaded.
    """
    installed = {entry_point.name for entry_point in importlib.metadata.entry_points(group="vstorage.plugins")}
    monkeypatch.setenv("VSTORAGE_DISABLED_PLUGINS", ",".join(sorted(installed)))
    modules_before = set(sys.modules)
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install(
        distribution: str, version: str, plugin: str, code: str, target: str | None = None, requires: str | None = None
    ) -> None:
        module = distribution.replace("-", "_")
        (site / f"{module}.py").write_text(IMPORTS + textwrap.dedent(code))
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n"
        (info / "METADATA").write_text(metadata + (f"Requires-Dist: {requires}\n" if requires else ""))
        (info / "entry_points.txt").write_text(f"[vstorage.plugins]\n{plugin} = {target or module}\n")
        importlib.invalidate_caches()

    yield install
    for name in set(sys.modules) - modules_before:
        if getattr(sys.modules[name], "__file__", None) and str(site) in str(sys.modules[name].__file__):
            del sys.modules[name]
