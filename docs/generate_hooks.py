"""Writes hooks.md from the hook specifications: `python docs/generate_hooks.py`; a test compares."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import ModuleType

import vstorage_cli.hookspecs
import vstorage_core.hookspecs
import vstorage_rest.hookspecs

TARGET = Path(__file__).with_name("hooks.md")
INTRODUCTION = """# Hooks

<!-- Made by docs/generate_hooks.py from the hook specifications. -->

Implement a hook by decorating a function of your plugin with `vstorage_core.hookimpl`. Name only the arguments you use.
[Writing a plugin](plugins.md) tells how vstorage finds it and in which order implementations run.
"""


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for title, module in (
        ("vstorage-core", vstorage_core.hookspecs),
        ("vstorage-rest", vstorage_rest.hookspecs),
        ("vstorage-cli", vstorage_cli.hookspecs),
    ):
        parts.append(f"## {title}\n")
        parts.extend(_section(name, function) for name, function in _specifications(module))
    return "\n".join(parts)


def _specifications(module: ModuleType) -> list[tuple[str, object]]:
    return [(name, function) for name, function in vars(module).items() if hasattr(function, "vstorage_spec")]


def _section(name: str, function: object) -> str:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    arguments = ", ".join(signature.parameters)
    types = [f"- `{parameter}`".replace("'", "") for parameter in signature.parameters.values()]
    result = signature.return_annotation
    if result not in (None, "None"):
        types.append(f"- returns `{result}`")
    return f"### `{name}({arguments})`\n\n{inspect.getdoc(function)}\n\n" + "\n".join(types) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render())
