"""What plugins contribute to a storage, by name: exporters, importers, health checks; and how these are run."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from pydantic import BaseModel, ValidationError

from vstorage_core.contributions import Exporter, Health, HealthCheck, Importer, PluginInfo
from vstorage_core.errors import InvalidInput, StorageError, StorageUnavailable, sentence_of
from vstorage_core.plugins import LoadedPlugin, refuse_duplicates
from vstorage_core.selection import SelectionOptions

if TYPE_CHECKING:
    from vstorage_core.storage import Storage

logger = logging.getLogger("vstorage")

T = TypeVar("T")
OptionsT = TypeVar("OptionsT", bound=BaseModel)


class Catalogue:
    """The contributions of one storage's plugins, which are asked once, when somebody needs to know.

    Whatever asks for them raises PluginConflictError when two plugins provide the same name, file or path.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._collected: dict[str, list[tuple[LoadedPlugin, Any]]] = {}

    @cached_property
    def exporters(self) -> dict[str, Exporter]:
        """By name."""
        contributed = self._collect("vstorage_register_exporters", Exporter)
        by_name = refuse_duplicates("exporter", contributed, lambda exporter: exporter.name)
        refuse_duplicates("export file", contributed, lambda exporter: exporter.filename)
        tables = [(plugin, exporter.table) for plugin, exporter in contributed if exporter.table is not None]
        refuse_duplicates("export file of a table", tables, lambda table: table.filename)
        return by_name

    @cached_property
    def importers(self) -> dict[str, Importer]:
        """By name."""
        contributed = self._collect("vstorage_register_importers", Importer)
        by_name = refuse_duplicates("importer", contributed, lambda importer: importer.name)
        refuse_duplicates("import path", contributed, lambda importer: importer.path)
        return by_name

    @cached_property
    def health_checks(self) -> dict[str, HealthCheck]:
        """By name."""
        contributed = self._collect("vstorage_register_health_checks", HealthCheck)
        return refuse_duplicates("health check", contributed, lambda check: check.name)

    def plugins(self) -> list[PluginInfo]:
        """All of them, also while two provide the same."""
        registry = self._storage.plugin_registry
        exporters = self._collect("vstorage_register_exporters", Exporter)
        importers = self._collect("vstorage_register_importers", Importer)
        return [
            PluginInfo(
                name=loaded.name,
                distribution=loaded.distribution,
                version=loaded.version,
                hooks=loaded.hooks,
                exporters=tuple(exporter.name for plugin, exporter in exporters if plugin is loaded),
                importers=tuple(importer.name for plugin, importer in importers if plugin is loaded),
                routes=registry.routes.get(loaded.name, ()),
            )
            for loaded in registry.loaded
        ]

    def writer(self, name: str, table: str | None, options: Mapping[str, Any]) -> Callable[[BinaryIO], None]:
        """What the exporter of that name does with a stream, to the whole database or to one table.

        Raises:
            InvalidInput: There is no such exporter or table, or an option is unknown or not allowed.
        """
        exporter = _named(self.exporters, name, "exporter")
        if table is None:
            checked = _checked(exporter.options, name, options)
            return lambda stream: exporter.write(self._storage, stream, checked)
        single = exporter.table
        if single is None:
            able = ", ".join(name for name, other in self.exporters.items() if other.table is not None) or "none"
            raise InvalidInput(f"{name} writes no single tables; those that do: {able}")
        choosing = {name: value for name, value in options.items() if name in ("where", "deleted")}
        others = {name: value for name, value in options.items() if name not in choosing}
        rows = _checked(SelectionOptions, name, {**choosing, "tables": [table]})
        checked = _checked(single.options, name, others)
        [selection] = rows.selections(self._storage)
        return lambda stream: single.write(self._storage, selection, stream, checked)

    def reader(self, name: str, options: Mapping[str, Any]) -> Callable[[BinaryIO], BaseModel]:
        """What the importer of that name does with a stream; returns its report.

        Raises:
            InvalidInput: There is no such importer, or an option is unknown or not allowed.
        """
        importer = _named(self.importers, name, "importer")
        checked = _checked(importer.options, name, options)
        return lambda stream: importer.read(self._storage, stream, checked)

    def _collect(self, hook_name: str, kind: type[T]) -> list[tuple[LoadedPlugin, T]]:
        if hook_name not in self._collected:
            self._collected[hook_name] = self._storage.plugin_registry.collect(hook_name, kind, storage=self._storage)
        return self._collected[hook_name]


def ask(checks: Mapping[str, HealthCheck], storage: Storage) -> Health:
    """The answers of all checks; what raises is unhealthy, with its sentence."""
    answers: dict[str, Mapping[str, Any]] = {}
    for name, check in checks.items():
        try:
            answers[name] = {**check.check(storage), "ok": True}
        except StorageError as error:
            answers[name] = {"ok": False, "error": str(error)}
        # A check of a third party may fail in any way; its text may hold secrets, so only the log gets it.
        except Exception as error:
            logger.exception("health check %r failed", name)
            answers[name] = {"ok": False, "error": f"failed with {type(error).__name__}; see the log"}
    return Health(ok=all(answer["ok"] for answer in answers.values()), checks=answers)


@contextmanager
def complete_file(target: str | Path | BinaryIO) -> Iterator[BinaryIO]:
    """The stream that `target` is, or that of a file which appears under its name only when it is complete.

    Raises:
        StorageUnavailable: The disk for the file is full.
    """
    if not isinstance(target, str | Path):
        yield target
        return
    path = Path(target)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageUnavailable(f"{path.name} cannot be written: the disk is full") from error
        raise
    finally:
        part.unlink(missing_ok=True)


def _named(provided: Mapping[str, T], name: str, what: str) -> T:
    try:
        return provided[name]
    except KeyError:
        known = ", ".join(sorted(provided)) or "none; install a plugin that brings one"
        raise InvalidInput(f"there is no {what} {name!r}; this storage has: {known}") from None


def _checked(model: type[OptionsT], name: str, options: Mapping[str, Any]) -> OptionsT:
    unknown = sorted(set(options) - set(model.model_fields))
    if unknown:
        known = ", ".join(model.model_fields) or "none"
        raise InvalidInput(f"{name}: unknown option {', '.join(unknown)}; it knows: {known}")
    try:
        return model.model_validate(options)
    except ValidationError as error:
        raise InvalidInput(f"{name}: {sentence_of(error)}") from None
