"""Storage: one database, its tables, sessions and transactions; the front of everything else."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from pydantic import BaseModel
from sqlalchemy import Connection, Engine, MetaData, Table, inspect, select
from sqlalchemy.sql.ddl import sort_tables_and_constraints
from sqlmodel import Session, SQLModel

from vstorage_core.audit import AUDIT_TABLE, AuditLog, acting_as, upgrade_audit_table
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
from vstorage_core.engine import Backend, EngineSettings, current_owner, open_backend
from vstorage_core.errors import TransactionConflict, TransactionError
from vstorage_core.plugins import PluginRegistry
from vstorage_core.records import record_type
from vstorage_core.rows import RowPlan, has_listeners, is_plain
from vstorage_core.sessions import (
    RowTransaction,
    Scope,
    StorageSession,
    is_listened_to,
    savepoint,
    scopes,
    watch_flushes,
)

if TYPE_CHECKING:
    from vstorage_core.accessor import ModelAccessor

logger = logging.getLogger("vstorage")

DEFAULT_URL = "sqlite:///./storage.db"


class Storage:
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
        self._engine_settings = self.settings("engine", EngineSettings, **given)
        self._url = url or os.environ.get("VSTORAGE_DATABASE_URL") or DEFAULT_URL
        self._backend = open_backend(self._url, self._engine_settings)
        self._opened_in: int | None = None
        self._open_mutex = threading.Lock()
        self._started = False
        self._accessors: dict[type[SQLModel], ModelAccessor[Any]] = {}
        self.plugin_registry = PluginRegistry(plugins, entry_points=entry_points)
        self._catalogue = Catalogue(self)
        self._row_plans: dict[type[SQLModel], RowPlan | None] = {}
        self._unused_session = StorageSession(self, self._backend)
        self.extensions: dict[str, Any] = {}
        self.allows_direct_rows = True

    def __enter__(self) -> Storage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Storage({self.url!r})"

    # Opening and closing

    @property
    def url(self) -> str:
        """The database URL, its password hidden."""
        return self._backend.url.render_as_string(hide_password=True)

    @property
    def is_in_memory(self) -> bool:
        """Whether the database lives in its one connection and is gone when that closes."""
        return self._backend.single_connection

    @property
    def takes_turns(self) -> bool:
        """Whether the database is in this process, whose threads only get into each other's way: SQLite."""
        return self._backend.writes_rows

    @property
    def engine(self) -> Engine:
        """SQLAlchemy's engine for your own work; on SQLite each of its transactions holds the write lock."""
        return self._open().write_engine

    def _open(self) -> Backend:
        pid = os.getpid()
        if self._opened_in != pid:
            with self._open_mutex:
                if self._opened_in is not None and self._opened_in != pid:
                    # After a fork the connections still belong to the parent: forget them, do not close them.
                    for engine in self._backend.engines:
                        engine.dispose(close=False)
                    self._backend = open_backend(self._url, self._engine_settings)
                if self._opened_in != pid:
                    if not self._backend.is_read_only:
                        upgrade_audit_table(self._backend.write_engine, self._backend.read_engine)
                    self._opened_in = pid
        return self._backend

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
        if self._opened_in is not None:
            self._backend.close()
            self._opened_in = None

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

    # Sessions and transactions

    def current_scope(self) -> Scope | None:
        """The innermost scope of this storage that this thread and task opened."""
        opened = scopes.get()
        if opened:
            me = current_owner()
            for scope in reversed(opened):
                if scope.storage is self and scope.owner == me:
                    return scope
        return None

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """All or nothing: commits at the end of the block, rolls everything back when it raises.

        Inside another transaction it joins with a savepoint: an exception undoes this block alone.

        Raises:
            StorageBusy: Other writers held the database for too long.
            TransactionError: It would wait for a transaction of its own thread.
        """
        scope = self.current_scope()
        if scope is None:
            with self._new_scope() as scope, self._outermost(scope):
                yield scope.session
        elif scope.transactional:
            with savepoint(scope.session):
                yield scope.session
        else:
            with self._outermost(scope):
                yield scope.session
            self._tell_committed(scope.session)

    def row_reader(self) -> AbstractContextManager[Any]:
        """The driver's cursor for one read of rows with a `reading_plan`: as the running session sees them, or as
        they are committed."""
        scope = self.current_scope()
        connection = None
        if scope is not None:
            scope.session.flush()
            connection = scope.session.connection()
        return self._open().row_reader(connection)

    def read_turn(self) -> AbstractContextManager[None]:
        """A turn to fetch some rows with a `reading_plan`."""
        return self._backend.read_turn()

    def reads_at_once(self) -> bool:
        """Whether a read by key would wait for nothing now, so that an event loop may do it itself."""
        return self._opened_in == os.getpid() and self._backend.reads_at_once()

    @contextmanager
    def reading_connection(self) -> Iterator[Connection]:
        """A connection for one read of committed rows."""
        backend = self._open()
        if backend.single_connection:
            with self.use_session() as session:
                yield session.connection()
        else:
            with backend.read_engine.connect() as connection:
                yield connection

    def row_transaction(self, scope: Scope | None, row_count: int = 1) -> AbstractContextManager[RowTransaction]:
        """`transaction` for so many rows with a `row_plan`, in the current scope; makes no session where none is open.

        One row is written by one statement, and its audit row by a second one.
        """
        if scope is None:
            return self._own_row_transaction()
        if not scope.transactional:
            return self._first_row_transaction(scope, row_count)
        session = scope.session
        if not isinstance(session, StorageSession):
            raise TransactionError("rows are written directly only in a session of the storage's own")
        return session.row_statement() if row_count <= 1 else self._joined_rows(session)

    @contextmanager
    def _own_row_transaction(self) -> Iterator[RowTransaction]:
        with self._open().row_transaction(self._write_timeout_seconds()) as cursor:
            written = RowTransaction(cursor)
            yield written
        self._tell(written.changes)

    @contextmanager
    def _joined_rows(self, session: StorageSession) -> Iterator[RowTransaction]:
        written = session.row_transaction()
        with self._backend.row_savepoint(written.cursor):
            yield written
        session.changes += written.changes

    @contextmanager
    def _first_row_transaction(self, scope: Scope, row_count: int) -> Iterator[RowTransaction]:
        with self.transaction(), self.row_transaction(scope, row_count) as written:
            yield written

    def _write_timeout_seconds(self) -> float | None:
        """How long a new scope may wait for its turn to write; None: as configured."""
        me = current_owner() if scopes.get() else None
        # Whoever opened the transaction that this context was made in most likely waits for us.
        inherited = any(scope.storage is self and scope.transactional and scope.owner != me for scope in scopes.get())
        return 1.0 if inherited else None

    def row_plan(self, model: type[SQLModel]) -> RowPlan | None:
        """How rows of the model are written directly; None when SQLAlchemy's unit of work must do it."""
        if not self.allows_direct_rows or not self._backend.writes_rows:
            return None
        try:
            plan = self._row_plans[model]
        except KeyError:
            record = record_type(model)
            plan = RowPlan(record, self._backend.write_engine.dialect) if is_plain(record) else None
            self._row_plans[model] = plan
        return None if plan is None or has_listeners(plan.record) else plan

    def reading_plan(self, model: type[SQLModel]) -> RowPlan | None:
        """How rows of the model are read with `row_reader`; None when a session must do it."""
        scope = self.current_scope()
        if scope is not None and not isinstance(scope.session, StorageSession):
            return None
        return None if self.has_listeners(scope) else self.row_plan(model)

    def has_listeners(self, scope: Scope | None) -> bool:
        """Whether somebody besides us listens to SQLAlchemy's events of the scope's session or of the engines."""
        return is_listened_to(scope.session if scope else self._unused_session, self._backend)

    @contextmanager
    def use_session(self, session: Session | None = None) -> Iterator[Session]:
        """A session for the block; what is written in it is committed at the end, or with each accessor call.

        Args:
            session: Use this one instead: accessors join its transaction, and committing stays with its owner.
        """
        scope = self.current_scope()
        if session is not None and (scope is None or scope.session is not session):
            if not isinstance(session, StorageSession):
                watch_flushes(session, self)
            with self._pushed(Scope(self, session, current_owner(), transactional=True)) as scope:
                yield session
        elif scope is not None:
            yield scope.session
        else:
            with self._new_scope() as scope:
                yield scope.session
                scope.session.commit()

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection on which all reads see one moment of the database; for exports."""
        with self.reading_connection() as connection:
            yield connection if self._backend.single_connection else self._backend.begin_snapshot(connection)

    @contextmanager
    def write_connection(self) -> Iterator[Connection]:
        """A connection that holds the turn to write, before any transaction has begun on it.

        For plugins that move whole tables: begin, audit (`write_entries`) and commit yourself.

        Raises:
            StorageBusy: Other writers held the database for too long.
            TransactionError: It would wait for a transaction of its own thread.
        """
        if self.current_scope() is not None:
            raise TransactionError("leave the session or transaction of this task first: it may hold the turn to write")
        backend = self._open()
        backend.acquire_write()
        try:
            with backend.write_engine.connect() as connection:
                yield connection
        finally:
            backend.release_write()

    def lock(self, name: str) -> None:
        """Inside a transaction: wait until no other transaction holds the same `name`, and hold it until the end."""
        scope = self.current_scope()
        if scope is None or not scope.transactional:
            raise TransactionError("a lock belongs to a transaction; call it inside `with storage.transaction():`")
        self._backend.lock(scope.session.connection(), name)

    def advance_keys(self, table: Table) -> None:
        """Inside a transaction that inserted rows with given keys: let generated keys go on after the highest one."""
        scope = self.current_scope()
        if scope is None or not scope.transactional:
            raise TransactionError("call it inside the `with storage.transaction():` that inserted the rows")
        self._backend.advance_keys(scope.session.connection(), table)

    @contextmanager
    def _new_scope(self) -> Iterator[Scope]:
        me = current_owner()
        with StorageSession(self, self._open()) as session:
            session.write_timeout_seconds = self._write_timeout_seconds()
            with self._pushed(Scope(self, session, me)) as scope:
                yield scope
        self._tell_committed(session)

    @contextmanager
    def _pushed(self, scope: Scope) -> Iterator[Scope]:
        scopes.set((*scopes.get(), scope))
        try:
            yield scope
        finally:
            # No token: a generator may be closed in another context than it was started in.
            scopes.set(tuple(other for other in scopes.get() if other is not scope))

    @contextmanager
    def _outermost(self, scope: Scope) -> Iterator[None]:
        session = scope.session
        # Ends the reading transaction of `use_session`, whose snapshot may be older than the lock.
        session.commit()
        if isinstance(session, StorageSession):
            session.begin_write()
        scope.transactional = True
        try:
            info = session.connection().info
            info.pop("lost", None)
            yield
            lost = session.info.get("lost") or info.get("lost")
            if lost is not None:
                raise TransactionConflict(
                    "a part of the transaction was lost, so nothing of it is stored; run it again"
                ) from lost
            session.commit()
        except BaseException:
            session.info.pop("lost", None)
            session.rollback()
            raise
        finally:
            scope.transactional = False

    def _tell_committed(self, session: Session) -> None:
        if isinstance(session, StorageSession):
            changes, session.committed = session.committed, []
            self._tell(changes)

    def _tell(self, changes: list[Change]) -> None:
        listening = [accessor for accessor in self._accessors.values() if accessor.commit_listeners]
        if not changes or not (listening or self.plugin_registry.hook.vstorage_after_commit.get_hookimpls()):
            return
        for accessor in listening:
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
            with _logged(f"{hook_name} of {plugin}"):
                call(**arguments)

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
        own = HealthCheck(name="database", check=Storage._check)
        return ask({own.name: own, **self._catalogue.health_checks}, self)

    def _check(self) -> Mapping[str, Any]:
        with self.snapshot() as connection:
            connection.execute(select(1))
        return {**self._backend.check_files(), **self._backend.state()}


@contextmanager
def _logged(what: str) -> Iterator[None]:
    """The data is saved: what a listener raises is logged and reaches nobody."""
    try:
        yield
    except Exception:
        logger.exception("%s failed", what)
