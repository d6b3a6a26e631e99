"""Command-line flags from the pydantic model of an exporter's or importer's options."""

from __future__ import annotations

import types
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

_PREFIX = "option_"
_METAVARS = {int: "INTEGER", float: "NUMBER", str: "TEXT"}
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "multiple_of": "multiple of ", "min_length": "length >=",
           "max_length": "length <="}  # fmt: skip


class OptionFlags:
    """The flags of one command: `--compression-level 9`, `--deleted/--no-deleted`, `--tables a --tables b`.

    Args:
        model: The options.
        name: Of the exporter or importer; goes before a flag that the command has itself, as in `--csv-url`.
        taken: The command's own flags.

    Attributes:
        parameters: For the click command; their values come as `option_<field>`.
    """

    def __init__(self, model: type[BaseModel], name: str, taken: Collection[str]) -> None:
        self._model = model
        self.parameters: list[click.Option] = []
        for field_name, field in model.model_fields.items():
            flag = field_name.replace("_", "-")
            self.parameters.append(_flag(field_name, f"{name}-{flag}" if flag in taken else flag, field))

    def parse(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The options that were given, checked.

        Raises:
            click.UsageError: A value is not allowed; the message names its flag.
        """
        given = {
            key.removeprefix(_PREFIX): list(value) if isinstance(value, tuple) else value
            for key, value in values.items()
            if value is not None and value != ()
        }
        try:
            checked = self._model.model_validate(given)
        except ValidationError as error:
            raise click.UsageError("\n".join(self._complaints(error))) from None
        return {name: getattr(checked, name) for name in given}

    def _complaints(self, error: ValidationError) -> Iterator[str]:
        flags = {parameter.name: parameter.opts[0] for parameter in self.parameters}
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            flag = flags.get(f"{_PREFIX}{problem['loc'][0]}") if problem["loc"] else None
            message = problem["msg"].removeprefix("Value error, ")
            yield f"Invalid value for '{flag}': {message}" if flag else message


def _flag(field_name: str, flag: str, field: FieldInfo) -> click.Option:
    destination = f"{_PREFIX}{field_name}"
    members = list(_members(field.annotation))
    repeatable = False
    if len(members) == 1 and get_origin(members[0]) in (list, tuple, set, frozenset):
        repeatable = True
        members = list(_members((*get_args(members[0]), str)[0]))
    choices = _choices(members)
    if members == [bool] and not repeatable:
        names, kind, metavar = f"--{flag}/--no-{flag}", None, None
    else:
        names, kind = f"--{flag}", _OneOf(choices) if choices else click.STRING
        metavar = None if choices else _METAVARS.get(members[0], getattr(members[0], "__name__", "text").upper())
    return click.Option(
        [destination, names],
        type=kind,
        default=None,
        multiple=repeatable,
        required=field.is_required(),
        metavar=metavar,
        help=_help(field, flag),
    )


def _members(annotation: Any) -> Iterator[Any]:
    """The types of which the annotation allows one, without None."""
    annotation = getattr(annotation, "__value__", annotation)
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from _members(member)
    elif annotation is not types.NoneType:
        yield annotation


def _choices(members: list[Any]) -> list[Any]:
    found: list[Any] = []
    for member in members:
        if get_origin(member) is Literal:
            found += get_args(member)
        elif isinstance(member, type) and issubclass(member, Enum):
            found += member
        else:
            return []
    return found


class _OneOf(click.Choice[str]):
    """A choice that gives the value itself, and shows e.g. a tab as `\\t`."""

    def __init__(self, values: list[Any]) -> None:
        self._by_label = {_label(value): value for value in values if value is not None}
        super().__init__(list(self._by_label))

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._by_label[super().convert(_label(value), param, ctx)]


def _label(value: Any) -> str:
    text = str(value.value if isinstance(value, Enum) else value)
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def _help(field: FieldInfo, flag: str) -> str:
    notes = []
    default = None if field.default_factory else field.default
    if isinstance(default, bool):
        notes.append(f"default: {flag if default else f'no-{flag}'}")
    elif not field.is_required() and default not in (None, "", [], ()):
        values = default if isinstance(default, list | tuple | set | frozenset) else (default,)
        notes.append(f"default: {', '.join(map(_label, values))}")
    for rule in field.metadata:
        notes += [
            f"{sign}{getattr(rule, name)}" for name, sign in _BOUNDS.items() if getattr(rule, name, None) is not None
        ]
    description = field.description or ""
    return f"{description}  [{'; '.join(notes)}]" if notes else description
