"""What the installed plugins provide, found without a database and as far as they work."""

from __future__ import annotations

import importlib.metadata
import os
from collections.abc import Iterable, Iterator, Mapping

import click

from vstorage_core import Exporter, Importer, PluginConflictError, PluginError, PluginInfo, Storage, StorageError
from vstorage_core.plugins import DISABLED_VARIABLE, ENTRY_POINT_GROUP, refuse_duplicates, routes_of

OWN_COMMANDS = ("check", "copy", "export", "import", "plugins")


class Catalogue:
    """Exporters, importers and commands of all plugins that work, and a sentence about each that does not.

    Attributes:
        broken: Why plugins cannot be used, and the way out; empty when all is well.
        disabled: Names of installed plugins that are switched off.
    """

    def __init__(self) -> None:
        self.plugins: list[PluginInfo] = []
        self.exporters: Mapping[str, Exporter] = {}
        self.importers: Mapping[str, Importer] = {}
        self.commands: Mapping[str, click.Command] = {}
        self.broken: list[str] = []
        installed = sorted(importlib.metadata.entry_points(group=ENTRY_POINT_GROUP), key=lambda found: found.name)
        switched_off = {name.strip() for name in os.environ.get(DISABLED_VARIABLE, "").split(",")}
        self.disabled = [entry_point.name for entry_point in installed if entry_point.name in switched_off]
        try:
            self._read(installed)
        # A plugin may fail in any way; the others and the help must be within reach nevertheless.
        except Exception:
            self._read_what_works(installed)

    def find_routes(self) -> None:
        """Add to `plugins` the routes that they serve in every application; imports the web framework.

        A plugin that fails to give its routes is added to `broken`.
        """
        for position, plugin in enumerate(self.plugins):
            try:
                self.plugins[position] = plugin._replace(routes=tuple(self._routes_of(plugin.name)))
            except ModuleNotFoundError:
                # A machine without a web framework serves none.
                continue
            except Exception as error:
                origin = f"{plugin.distribution} {plugin.version}" if plugin.distribution else None
                self.broken.append(_sentence(plugin.name, origin, error))

    def _routes_of(self, name: str) -> Iterator[str]:
        for plugin, call in self._storage.plugin_registry.separately("vstorage_register_routers"):
            if plugin.name == name:
                for routers in call(
                    storage=self._storage, accessors=[], max_records_per_model=None, enable_db_router=True
                ):
                    for router in routers:
                        yield from map(" ".join, routes_of(router))

    def refuse_broken(self) -> None:
        """Raise for whoever needs all plugins.

        Raises:
            PluginError: A plugin is broken.
        """
        if self.broken:
            raise PluginError("\n".join(self.broken))

    def _read(self, entry_points: Iterable[importlib.metadata.EntryPoint]) -> None:
        # In memory and never opened: exporters and importers are registered with some storage.
        storage = Storage("sqlite://", entry_points=entry_points)
        contributed = storage.plugin_registry.collect("vstorage_register_commands", click.Command)
        for plugin, command in contributed:
            if command.name in OWN_COMMANDS:
                raise PluginConflictError(
                    f"command {command.name!r} of {plugin} is one of vstorage's own;"
                    f" disable it with {DISABLED_VARIABLE}={plugin.name}"
                )
        self.commands = refuse_duplicates("command", contributed, lambda command: command.name or "")
        self._storage = storage
        self.plugins, self.exporters, self.importers = storage.plugins(), storage.exporters, storage.importers

    def _read_what_works(self, installed: list[importlib.metadata.EntryPoint]) -> None:
        try:
            self._read([])
        except StorageError as error:
            self.broken = [str(error)]
            return
        working: list[importlib.metadata.EntryPoint] = []
        waiting = installed
        # Again as long as it helps: a plugin may need one that comes later in the alphabet.
        while True:
            failed: list[importlib.metadata.EntryPoint] = []
            self.broken = []
            for entry_point in waiting:
                try:
                    self._read([*working, entry_point])
                    working.append(entry_point)
                except Exception as error:
                    failed.append(entry_point)
                    found = entry_point.dist
                    origin = f"{found.name} {found.version}" if found else None
                    self.broken.append(_sentence(entry_point.name, origin, error))
            if len(failed) == len(waiting):
                break
            waiting = failed
        self._read(working)


def _sentence(name: str, origin: str | None, error: Exception) -> str:
    if isinstance(error, StorageError):
        return str(error)
    return (
        f"plugin {name!r}{f' ({origin})' if origin else ''} fails with {type(error).__name__}: {error};"
        f" upgrade it, or set {DISABLED_VARIABLE}={name} to start without it"
    )
