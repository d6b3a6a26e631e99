"""What plugins hand over to a storage, and what a storage hands over to them. Data only."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, create_model

if TYPE_CHECKING:
    from vstorage_core.selection import Selection
    from vstorage_core.storage import Storage

# "replace" is the whole database being replaced, e.g. by a backup; the others are about one record.
Operation = Literal["create", "update", "delete", "soft_delete", "restore", "replace"]


OptionsT = TypeVar("OptionsT", bound=BaseModel)


class NoOptions(BaseModel):
    """The options of an exporter or importer that has none."""

    model_config = ConfigDict(extra="forbid")


def with_defaults(options: type[OptionsT], defaults: BaseModel) -> type[OptionsT]:
    """The same options with the values of `defaults` as defaults, where both have a field of the same name.

    With a plugin's settings as `defaults`, each machine has its own: Python, help texts and OpenAPI show them.
    """
    fields: dict[str, Any] = {}
    for name, field in options.model_fields.items():
        if name in type(defaults).model_fields:
            value = getattr(defaults, name)
            # pydantic takes no value beside a factory.
            given = value if field.default_factory is None else Field(default_factory=lambda value=value: value)
            fields[name] = (Annotated[field.annotation, field], given)
    return create_model(options.__name__, __base__=options, __doc__=options.__doc__, **fields)


# Here and below without `eq`: nobody compares them, and Python 3.11 takes 0.1 ms to make each method.
@dataclass(frozen=True, kw_only=True, eq=False)
class TableExporter:
    """How an exporter writes a single table: `GET /{component}/{filename}`, `vstorage export {name} --table TABLE`.

    Attributes:
        filename: Name of the file over HTTP, e.g. `export.csv`; its ending is that of any file of this format.
        media_type: MIME type of that file.
        write: Called with the storage, the rows that were chosen, a writable binary stream and the validated options.
        options: Pydantic model of the options; those that choose rows are not among them.
    """

    filename: str
    media_type: str
    write: Callable[[Storage, Selection, BinaryIO, Any], None]
    options: type[BaseModel] = NoOptions


@dataclass(frozen=True, kw_only=True, eq=False)
class Exporter:
    """A way to write the database to a stream: `GET /db/{filename}`, `vstorage export {name}`.

    Attributes:
        name: What Python and the command line call it, e.g. `csv`.
        filename: Name of the file that it makes, e.g. `export.zip`; also its HTTP path.
        media_type: MIME type of that file.
        write: Called with the storage, a writable binary stream (maybe not seekable) and the validated
            options. Writes in constant memory and never closes the stream.
        options: Pydantic model of the options; becomes query parameters and command-line flags.
            `SelectionOptions` has those that choose tables and rows.
        summary: One line for help texts and OpenAPI.
        action: What a caller of the web API must be allowed to do: `db.{action}`. A name of its own for what may be
            allowed to others than who may export records, e.g. `backup`.
        table: How it writes a single table, where it can.
    """

    name: str
    filename: str
    media_type: str
    write: Callable[[Storage, BinaryIO, Any], None]
    options: type[BaseModel] = NoOptions
    summary: str = ""
    action: str = "export"
    table: TableExporter | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Importer:
    """A way to read a stream into the database: `POST /db/{path}`, `vstorage import {name}`.

    Attributes:
        name: What Python and the command line call it, e.g. `restore`.
        path: Its HTTP path below `/db/`.
        read: Called with the storage, a readable and seekable binary stream and the validated options.
            Returns a report. Raises `ImportRefused` when the file cannot be imported; then nothing
            was changed.
        options: Pydantic model of the options; becomes query parameters and command-line flags.
        report: Pydantic model of what `read` returns, for OpenAPI.
        summary: One line for help texts and OpenAPI.
        action: What a caller of the web API must be allowed to do: `db.{action}`. A name of its own for what may be
            allowed to others than who may import records, e.g. `restore`.
    """

    name: str
    path: str
    read: Callable[[Storage, BinaryIO, Any], BaseModel]
    options: type[BaseModel] = NoOptions
    report: type[BaseModel] | None = None
    summary: str = ""
    action: str = "import"


@dataclass(frozen=True, kw_only=True, eq=False)
class HealthCheck:
    """One question that `storage.health()` and `GET /db/health` ask.

    Attributes:
        name: Under which its answer stands in the report.
        check: Returns JSON-able details when all is well; raises with a sentence when it is not.
    """

    name: str
    check: Callable[[Storage], Mapping[str, Any]]


class Health(NamedTuple):
    """The answers of all health checks.

    Attributes:
        ok: Whether every check passed.
        checks: Per check its details, with `ok` and, where it failed, `error`.
    """

    ok: bool
    checks: Mapping[str, Mapping[str, Any]]


class Change(NamedTuple):
    """One committed operation on one record.

    Attributes:
        component: The accessor's component.
        operation: As in the audit trail.
        record_id: Key of the record.
        actor: Who did it.
        timestamp: When, in UTC, equal to the audit row's.
    """

    component: str
    operation: Operation
    record_id: Any
    actor: str
    timestamp: datetime
    before_json: str | None
    after_json: str | None

    @property
    def before(self) -> dict[str, Any] | None:
        """The record before, as JSON values; None for a create."""
        return None if self.before_json is None else json.loads(self.before_json)

    @property
    def after(self) -> dict[str, Any] | None:
        """The record after, as JSON values; None for a hard delete."""
        return None if self.after_json is None else json.loads(self.after_json)


class PluginInfo(NamedTuple):
    """What `storage.plugins()`, `vstorage plugins` and `GET /db/plugins` tell about a plugin.

    Attributes:
        routes: What it serves on the applications that the storage was bootstrapped with, e.g. `GET /db/health`.
    """

    name: str
    distribution: str | None
    version: str | None
    hooks: tuple[str, ...]
    exporters: tuple[str, ...]
    importers: tuple[str, ...]
    routes: tuple[str, ...] = ()


class Progress(NamedTuple):
    """How far an export or import has come.

    Attributes:
        label: What is being done, e.g. a table's name.
        done: Units done.
        total: Units in all, or None when nobody knows.
    """

    label: str
    done: int
    total: int | None


_progress_callback: ContextVar[Callable[[Progress], None] | None] = ContextVar("vstorage_progress", default=None)


def report_progress(label: str, done: int, total: int | None = None) -> None:
    """Tell whoever started this export or import how far it is; cheap when nobody listens."""
    callback = _progress_callback.get()
    if callback is not None:
        callback(Progress(label=label, done=done, total=total))


@contextmanager
def progress_to(callback: Callable[[Progress], None] | None) -> Iterator[None]:
    """Send what is reported inside the block to `callback`."""
    token = _progress_callback.set(callback)
    try:
        yield
    finally:
        _progress_callback.reset(token)
