"""hooks.md, from the hook specifications."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[2]
INTRODUCTION = """# Hooks

<!-- Made from the hook specifications by `make reference`. -->

Implement a hook by decorating a function of your plugin with `vstorage_core.hookimpl`. Name only the arguments you use.
[Rules and reactions](rules.md) shows hooks at work; [writing a plugin](plugins.md) tells how vstorage finds them and in
which order they run.
"""


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION]
    for path in [ROOT / "vstorage_core" / "hookspecs.py", *sorted(ROOT.glob("plugins/*/vstorage_*/hookspecs.py"))]:
        package = path.parent.name
        parts.append(f"## {package.replace('_', '-')}\n")
        module = importlib.import_module(f"{package}.hookspecs")
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
