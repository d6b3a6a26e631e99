"""Storage: one database with its tables, accessors and plugins; the front of everything else."""

from __future__ import annotations

import importlib.metadata
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import BaseModel
from sqlalchemy import MetaData, Table, inspect
from sqlalchemy.sql.ddl import sort_tables_and_constraints
from sqlmodel import SQLModel

from vstorage_core.audit import AUDIT_TABLE, AuditLog, acting_as
from vstorage_core.catalogue import Catalogue, ask, complete_file
from vstorage_core.configuration import Configuration, SettingsT
from vstorage_core.contributions import (
    Change,
    Exporter,
    Health,
    HealthCheck,
    Importer,
    PluginInfo,
    Progress,
    progress_to,
)
from vstorage_core.engine import EngineSettings
from vstorage_core.errors import TransactionError
from vstorage_core.open_database import OpenDatabase
from vstorage_core.plugins import PluginRegistry
from vstorage_core.records import record_type

if TYPE_CHECKING:
    from vstorage_core.accessor import ModelAccessor

logger = logging.getLogger("vstorage")

DEFAULT_URL = "sqlite:///./storage.db"


class Storage(OpenDatabase):
    """One database with its plugins. A context manager; opens lazily and opens again after `close`.

    Args:
        url: Database URL; default `VSTORAGE_DATABASE_URL` or `sqlite:///./storage.db`.
        replica_urls: Standbys of a PostgreSQL primary, to answer reads outside of transactions; default: as configured.
        plugins: Plugin objects, beside those that are installed.
        config: Settings by section, e.g. `{"engine": {"durability": "normal"}}`; a variable such as
            `VSTORAGE_ENGINE__DURABILITY` wins over it.
        entry_points: The installed plugins to choose from; default: those found on this machine.

    Attributes:
        extensions: What plugins keep for as long as this storage lives, by plugin name.
        allows_direct_rows: False sends every write through SQLAlchemy's unit of work, to look for differences.

    Raises:
        ConfigurationError: The URL or a setting cannot work.
        PluginError: A plugin cannot be loaded.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        replica_urls: Iterable[str] | None = None,
        plugins: Iterable[object] = (),
        config: Mapping[str, Mapping[str, Any]] | None = None,
        entry_points: Iterable[importlib.metadata.EntryPoint] | None = None,
    ) -> None:
        self._configuration = Configuration(config or {})
        given = {} if replica_urls is None else {"replica_urls": list(replica_urls)}
        super().__init__(
            url or os.environ.get("VSTORAGE_DATABASE_URL") or DEFAULT_URL,
            self.settings("engine", EngineSettings, **given),
        )
        self.plugin_registry = PluginRegistry(plugins, entry_points=entry_points)
        self.extensions: dict[str, Any] = {}
        self._catalogue = Catalogue(self)
        self._accessors: dict[type[SQLModel], ModelAccessor[Any]] = {}
        self._started = False

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    # Opening and closing

    def start(self) -> None:
        """Let the plugins start; a second call does nothing."""
        if self._started:
            return
        begun: list[str] = []
        try:
            for plugin, call in self.plugin_registry.separately("vstorage_startup"):
                call(storage=self)
                begun.append(plugin.name)
        except BaseException:
            for plugin, call in self.plugin_registry.separately("vstorage_shutdown"):
                if plugin.name in begun:
                    with _logged(f"vstorage_shutdown of {plugin}"):
                        call(storage=self)
            raise
        self._started = True
        self._configuration.warn_of_unread(plugin.name for plugin in self.plugin_registry.loaded)

    def close(self) -> None:
        """Let the plugins shut down and close the connections; the next use opens them again.

        Raises:
            TransactionError: A session of this storage is open in this very task.
        """
        if self.current_scope() is not None:
            raise TransactionError(f"{self!r} cannot close while a session or transaction of it is open")
        if self._started:
            self._started = False
            self._call_each("vstorage_shutdown", storage=self)
        self._close_database()

    def settings(self, section: str, model: type[SettingsT], **overrides: Any) -> SettingsT:
        """A section of the configuration, checked; `VSTORAGE_<SECTION>__<NAME>` wins over it, `overrides` over both.

        Raises:
            ConfigurationError: A setting is unknown or not allowed.
        """
        return self._configuration.section(section, model, overrides)

    # Tables and accessors

    @property
    def accessors(self) -> list[ModelAccessor[Any]]:
        """The accessors that this storage has met, one per model."""
        return list(self._accessors.values())

    def register(self, accessor: ModelAccessor[Any]) -> None:
        """Make the accessor's component known for audit and commit listeners; the first one of a model counts."""
        self._accessors.setdefault(accessor.model, accessor)

    def create_tables(self) -> None:
        """Create the tables that do not exist; never alters one that does."""
        for metadata in self.metadata():
            metadata.create_all(self.engine)

    def tables(self) -> list[Table]:
        """The tables of the models, as far as the database has them; referenced tables come first."""
        with self.reading_connection() as connection:
            existing = set(inspect(connection).get_table_names())
        ordered: list[Table | None] = []
        for metadata in self.metadata():
            tables = sorted(metadata.tables.values(), key=lambda table: table.key)
            # Unlike `sorted_tables` this does not warn where tables refer to each other in a circle.
            pairs = sort_tables_and_constraints(tables)  # type: ignore[no-untyped-call]
            ordered += [table for table, _ in pairs]
        return [table for table in ordered if table is not None and table.name in existing]

    def metadata(self) -> list[MetaData]:
        """The models' tables as SQLAlchemy and Alembic know them; mostly `SQLModel.metadata` alone."""
        models: list[type[SQLModel]] = [SQLModel, *self._accessors]
        found = list({id(model.metadata): model.metadata for model in models}.values())
        for metadata in found:
            for table in metadata.tables.values():
                # Without it SQLite gives the key of a deleted last row to the next one: two things, one history.
                # The trail only grows: its keys cannot come again, and keeping count costs each write a page more.
                if table is not AUDIT_TABLE and table.autoincrement_column is not None and len(table.primary_key) == 1:
                    table.dialect_options["sqlite"]["autoincrement"] = True
        return found

    def component_of(self, model: type[SQLModel]) -> str | None:
        """The component under which changes of the model are audited, or None when they are not.

        Models that no accessor is known for are audited under their table's name.
        """
        scope = self.current_scope()
        if scope is not None and scope.accessor is not None and scope.accessor.model is model:
            accessor: ModelAccessor[Any] | None = scope.accessor
        else:
            accessor = next((self._accessors[kind] for kind in model.__mro__ if kind in self._accessors), None)
        if accessor is not None:
            return accessor.component if accessor.audited else None
        return None if model is AuditLog else record_type(model).mapper.local_table.name

    def _tell(self, changes: list[Change]) -> None:
        if not changes:
            return
        for accessor in [accessor for accessor in self._accessors.values() if accessor.commit_listeners]:
            own = [change for change in changes if change.component == accessor.component]
            for listener in accessor.commit_listeners if own else ():
                with _logged(f"after_commit listener {getattr(listener, '__qualname__', listener)}"):
                    listener(own)
        self._call_each("vstorage_after_commit", storage=self, changes=changes)

    def replaced(self) -> None:
        """Tell the plugins that the whole database was replaced; importers that do so call it."""
        self._call_each("vstorage_after_replace", storage=self)

    def _call_each(self, hook_name: str, **arguments: Any) -> None:
        for plugin, call in self.plugin_registry.separately(hook_name):
            # `_logged` with less ado: each commit comes here.
            try:
                call(**arguments)
            except Exception:
                logger.exception("%s of %s failed", hook_name, plugin)

    # What plugins contribute

    @property
    def exporters(self) -> Mapping[str, Exporter]:
        """What plugins can export, by name."""
        return self._catalogue.exporters

    @property
    def importers(self) -> Mapping[str, Importer]:
        """What plugins can import, by name."""
        return self._catalogue.importers

    def plugins(self) -> list[PluginInfo]:
        """The loaded plugins, in the order in which their hooks run."""
        return self._catalogue.plugins()

    def export(
        self,
        name: str,
        target: str | Path | BinaryIO,
        /,
        *,
        table: str | None = None,
        progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> None:
        """Write the database to a file or stream with the exporter of that name.

        A file appears under its name only when it is complete.

        Args:
            name: Of the exporter.
            target: Path of the file, or a writable binary stream.
            table: Write this table alone, in the exporter's format for single tables.
            progress: Called while it goes on.
            **options: Of the exporter.

        Raises:
            InvalidInput: There is no such exporter, or an option is unknown or not allowed.
            StorageUnavailable: The database cannot be read now, or the disk for the file is full.
        """
        write = self._catalogue.writer(name, table, options)
        with progress_to(progress), complete_file(target) as stream:
            write(stream)

    def import_(
        self,
        name: str,
        source: str | Path | BinaryIO,
        /,
        *,
        actor: str | None = None,
        progress: Callable[[Progress], None] | None = None,
        **options: Any,
    ) -> BaseModel:
        """Read a file or a seekable stream with the importer of that name; returns its report.

        Raises:
            InvalidInput: There is no such importer, or an option is unknown or not allowed.
            ImportRefused: The file cannot be imported; nothing was changed.
        """
        read = self._catalogue.reader(name, options)
        with ExitStack() as stack:
            stream = stack.enter_context(Path(source).open("rb")) if isinstance(source, str | Path) else source
            stack.enter_context(progress_to(progress))
            stack.enter_context(acting_as(actor))
            return read(stream)

    def health(self) -> Health:
        """Ask the database and every plugin's check; what raises is unhealthy, with its sentence."""
        own = HealthCheck(name="database", check=Storage._check_database)
        return ask({own.name: own, **self._catalogue.health_checks}, self)


@contextmanager
def _logged(what: str) -> Iterator[None]:
    """The data is saved: what a listener raises is logged and reaches nobody."""
    try:
        yield
    except Exception:
        logger.exception("%s failed", what)
