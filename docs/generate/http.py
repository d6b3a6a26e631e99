"""http.md, from the OpenAPI document of the example machine."""

from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MACHINE = Path(__file__).parents[2] / "examples" / "machine.py"
METHODS = {"get": 0, "post": 1, "put": 2, "patch": 3, "delete": 4}
LINK = re.compile(r"\[`(\w+)`\]\(#")
INTRODUCTION = """# HTTP

<!-- Made from the OpenAPI document of examples/machine.py by `make reference`. -->

Every route of a machine with all plugins of vstorage, with `recipes` for any component. Your own machine serves the
same as `/openapi.json`, with the fields of your models, and at `/docs` as a page to try it on.
[vstorage-rest](../plugins/vstorage_rest/README.md) tells how to work with it.
"""
FILTERS = (
    "| any field, e.g. `speed_percent`, `speed_percent__gte` | query | only records for which it holds; the operators"
    " stand in [Lists](../plugins/vstorage_rest/README.md#lists) |"
)


def render() -> str:
    """The whole page."""
    app, _ = runpy.run_path(str(MACHINE))["create_app"]("sqlite://")
    document = app.openapi()
    operations = [
        (method, path, operation)
        for path, by_method in document["paths"].items()
        for method, operation in by_method.items()
        if path.startswith(("/recipes/", "/db/"))
    ]
    operations.sort(key=lambda found: (not found[1].startswith("/recipes/"), found[1], METHODS[found[0]]))
    fields = set(document["components"]["schemas"]["RecipeUpdate"]["properties"]) | {"id", "deleted_at"}
    parts = [INTRODUCTION, *_shared(operations)]
    for title, start in (("Records", "/recipes/"), ("Below /db", "/db/")):
        parts.append(f"## {title}\n")
        for method, path, operation in operations:
            if path.startswith(start):
                parts.extend(
                    _section(
                        method,
                        path,
                        operation,
                        fields if path == "/recipes/" or path.startswith("/recipes/export.") else set(),
                    )
                )
    parts.append("## Bodies\n")
    parts.extend(_schemas(document["components"]["schemas"], "\n".join(parts)))
    return "\n".join(parts)


def _shared(operations: list[tuple[str, str, dict[str, Any]]]) -> Iterator[str]:
    """What holds for every route: the headers that name the caller, and what a status means."""
    headers, statuses = {}, {}
    for _, _, operation in operations:
        for parameter in operation.get("parameters", ()):
            if parameter["name"].startswith("X-"):
                headers[parameter["name"]] = parameter["description"]
        for status, answer in operation["responses"].items():
            if status >= "300":
                statuses.setdefault(status, answer["description"])
    yield "## Headers that name the caller\n\n| header | meaning |\n|---|---|"
    yield from (f"| `{name}` | {meaning} |" for name, meaning in sorted(headers.items()))
    yield "\n## Answers that are not a success\n\n| status | meaning |\n|---|---|"
    yield from (f"| {status} | {meaning} |" for status, meaning in sorted(statuses.items()))
    yield ""


def _section(method: str, path: str, operation: dict[str, Any], filtered: set[str]) -> Iterator[str]:
    yield f"### `{method.upper()} {path}`\n"
    yield f"{operation.get('description') or operation['summary']}\n"
    rows = [
        f"| `{parameter['name']}` | {parameter['in']} | {_meaning(parameter)} |"
        for parameter in operation.get("parameters", ())
        if not parameter["name"].startswith("X-") and parameter["name"].partition("__")[0] not in filtered
    ]
    if filtered and method == "get":
        rows.append(FILTERS)
    if rows:
        yield "| parameter | in | meaning |\n|---|---|---|"
        yield from rows
        yield ""
    if "requestBody" in operation:
        yield f"The body is {_content(operation['requestBody']['content'])}.\n"
    yield f"Answers: {', '.join(_answer(status, operation) for status in sorted(operation['responses']))}.\n"


def _meaning(parameter: dict[str, Any]) -> str:
    schema = parameter["schema"]
    meaning = parameter.get("description") or ("The key of the record" if parameter["in"] == "path" else "")
    values = next((part["enum"] for part in (schema, *schema.get("anyOf", ())) if "enum" in part), ())
    if values:
        meaning += f" ({', '.join(map(_code, values))})"
    if schema.get("default") is not None:
        meaning += f"; default {_code(schema['default'])}"
    return meaning


def _code(value: Any) -> str:
    return f"`{json.dumps(value) if not isinstance(value, str) else value.replace(chr(9), 'tab')}`"


def _answer(status: str, operation: dict[str, Any]) -> str:
    content = operation["responses"][status].get("content")
    return f"{status} with {_content(content)}" if status < "300" and content else status


def _content(content: dict[str, Any]) -> str:
    if "application/json" not in content:
        kind = next(iter(content))
        return "a form with the file in the field `file`" if kind == "multipart/form-data" else f"`{kind}`"
    return _noun(content["application/json"]["schema"])


def _noun(schema: dict[str, Any]) -> str:
    """What a value of the schema is called."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[`{name}`](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_noun(part) for part in schema["anyOf"])
    if schema.get("type") == "array":
        return f"a list of {_noun(schema['items'])}"
    return str(schema.get("format") or schema.get("type") or "JSON")


def _schemas(schemas: dict[str, Any], text: str) -> Iterator[str]:
    """The bodies that the text links to, and those that they link to."""
    shown: set[str] = set()
    while missing := set(LINK.findall(text)) - shown:
        name = min(missing)
        shown.add(name)
        section = _schema(name, schemas[name])
        text += section
        yield section


def _schema(name: str, schema: dict[str, Any]) -> str:
    lines = [f"### `{name}`\n", f"{schema.get('description', '').partition(chr(10))[0]}\n"]
    if "enum" in schema:
        return "\n".join([*lines, f"One of {', '.join(map(_code, schema['enum']))}.\n"])
    lines.append("| field | type | meaning |\n|---|---|---|")
    for field, part in schema.get("properties", {}).items():
        meaning = part.get("description", "")
        needed = "; needed" if field in schema.get("required", ()) else ""
        lines.append(f"| `{field}` | {_noun(part)}{needed} | {meaning} |")
    return "\n".join(lines) + "\n"
