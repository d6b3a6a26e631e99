"""settings.md, from the pydantic models that check the settings."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

ROOT = Path(__file__).parents[2]
SECTION = re.compile(r"The `(\w+)` section of a storage's configuration")
ATTRIBUTE = re.compile(r"^    (\w+): (.*(?:\n {8}.*)*)", re.M)
INTRODUCTION = """# Settings

<!-- Made from the models of the settings by `make reference`. -->

A setting belongs to a section. Give it in Python, or as a variable, which wins:

```python
from vstorage_core import Storage

storage = Storage("sqlite:///./machine.db", config={"engine": {"durability": "normal"}})
```

```console
$ export VSTORAGE_ENGINE__DURABILITY=normal
```

`bootstrap(config=…)` takes the same sections. A value that is not allowed, or a name that the section does not know,
stops the start with a sentence; a section that nobody reads is warned about.

## Variables without a section

| variable | meaning |
|---|---|
| `VSTORAGE_DATABASE_URL` | the database where none is named; default `sqlite:///./storage.db` |
| `VSTORAGE_DISABLED_PLUGINS` | installed plugins that are not loaded, e.g. `csv,diagram` |
| `VSTORAGE_ADMIN_TOKEN` | opens everything below `/db` to whoever sends it; the same as `VSTORAGE_REST__ADMIN_TOKEN` |
| `VSTORAGE_APP` | what the command line takes for `--app` |
| `VSTORAGE_DEBUG` | `1` makes the command line print tracebacks |
"""


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    plugins = sorted(path.parent.name for path in ROOT.glob("plugins/*/vstorage_*/__init__.py"))
    for package in ("vstorage_core", *plugins):
        for section, model in _sections(package):
            parts.append(f"## Section `{section}`, of {package.replace('_', '-')}\n")
            parts.append(_table(section, model))
    return "\n".join(parts)


def _sections(package: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """The settings models that the package defines, with the names of their sections."""
    folder = importlib.import_module(package).__path__
    for found in pkgutil.walk_packages(folder, f"{package}."):
        if found.name.endswith("__main__"):
            continue
        for model in vars(importlib.import_module(found.name)).values():
            if inspect.isclass(model) and issubclass(model, BaseModel) and model.__module__ == found.name:
                section = SECTION.match(inspect.getdoc(model) or "")
                if section:
                    yield section[1], model


def _table(section: str, model: type[BaseModel]) -> str:
    meanings = {name: " ".join(text.split()) for name, text in ATTRIBUTE.findall(inspect.getdoc(model) or "")}
    variables = [f"VSTORAGE_{section}__{name}".upper() for name in model.model_fields]
    lines = [f"As variables: `{variables[0]}` and so on.\n", "| setting | default | meaning |", "|---|---|---|"]
    for name, field in model.model_fields.items():
        lines.append(f"| `{name}` | {_default(field.get_default())} | {meanings[name]} |")
    return "\n".join(lines) + "\n"


def _default(value: Any) -> str:
    if value is None or value == []:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:,}" if isinstance(value, int) else f"`{value}`"
