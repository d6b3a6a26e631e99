"""A database that is open here and now: its engines, sessions and transactions, and who commits.

A scope is a session in use. Scopes stand in a context variable, so that accessors find the session of the
transaction they are called in; one belongs to the thread and task that opened it and nobody else ever gets it.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, Table, select
from sqlalchemy.exc import SQLAlchemyError
from sqlmodel import Session, SQLModel

from vstorage_core.audit import upgrade_audit_table
from vstorage_core.contributions import Change
from vstorage_core.engine import Backend, EngineSettings, Owner, current_owner, open_backend
from vstorage_core.errors import StorageError, TransactionConflict, TransactionError
from vstorage_core.records import record_type
from vstorage_core.rows import RowPlan, has_listeners, is_plain
from vstorage_core.sessions import RowTransaction, StorageSession, held, is_listened_to, watch_flushes

if TYPE_CHECKING:
    from vstorage_core.accessor import ModelAccessor


class Scope:
    """A session in use.

    Attributes:
        owner: Thread and task that opened it.
        transactional: Whether a transaction is open that only its opener may commit.
        accessor: The accessor whose operation is running.
        direct_rows: By accessor, its way past the unit of work, or None where it must not be taken.
    """

    def __init__(self, storage: OpenDatabase, session: Session, owner: Owner, *, transactional: bool = False) -> None:
        self.storage = storage
        self.session = session
        self.owner = owner
        self.transactional = transactional
        self.accessor: ModelAccessor[Any] | None = None
        self.direct_rows: dict[Any, Any] = {}


scopes: ContextVar[tuple[Scope, ...]] = ContextVar("vstorage_scopes", default=())


class OpenDatabase:
    """What a `Storage` is without its accessors and plugins."""

    def __init__(self, url: str, settings: EngineSettings) -> None:
        self.allows_direct_rows = True
        self._url = url
        self._engine_settings = settings
        self._backend = open_backend(url, settings)
        self._opened_in: int | None = None
        self._open_mutex = threading.Lock()
        self._row_plans: dict[type[SQLModel], RowPlan | None] = {}
        self._unused_session = StorageSession(self, self._backend)

    def component_of(self, model: type[SQLModel]) -> str | None:
        """The component under which changes of the model are audited, or None when they are not."""
        raise NotImplementedError

    def _tell(self, changes: list[Change]) -> None:
        """Tell the commit listeners."""
        raise NotImplementedError

    # The database

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

    def _close_database(self) -> None:
        # Also where nothing has been opened: a thread that did not see the last close may have opened something since.
        # After a fork the connections are the parent's.
        if self._opened_in in (None, os.getpid()):
            self._opened_in = None
            self._backend.close()

    def _check_database(self) -> Mapping[str, Any]:
        """Read something; tells what there is to know about the database's files and replicas.

        Raises:
            StorageUnavailable: It cannot be read, or not be written.
        """
        with self.snapshot() as connection:
            connection.execute(select(1))
        return {**self._backend.check_files(), **self._backend.state()}

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

    def _write_timeout_seconds(self) -> float | None:
        """How long a new scope may wait for its turn to write; None: as configured."""
        me = current_owner() if scopes.get() else None
        # Whoever opened the transaction that this context was made in most likely waits for us.
        inherited = any(scope.storage is self and scope.transactional and scope.owner != me for scope in scopes.get())
        return 1.0 if inherited else None

    def _tell_committed(self, session: Session) -> None:
        if isinstance(session, StorageSession):
            changes, session.committed = session.committed, []
            self._tell(changes)

    # Connections

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

    # Rows past the unit of work

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
            written = RowTransaction(cursor, [])
            yield written
        self._tell(written.changes)

    @contextmanager
    def _first_row_transaction(self, scope: Scope, row_count: int) -> Iterator[RowTransaction]:
        with self.transaction(), self.row_transaction(scope, row_count) as written:
            yield written

    @contextmanager
    def _joined_rows(self, session: StorageSession) -> Iterator[RowTransaction]:
        written = session.begin_rows([])
        with self._backend.row_savepoint(written.cursor):
            yield written
        session.changes += written.changes


@contextmanager
def savepoint(session: Session) -> Iterator[None]:
    """A part of the session's transaction that an exception undoes alone."""
    if isinstance(session, StorageSession):
        session.begin_write()
    savepoint = session.begin_nested()
    # SQLAlchemy sends SAVEPOINT only when the connection is asked for; one that was taken before would write outside.
    session.connection()
    try:
        with held(session):
            yield
        savepoint.commit()
    except BaseException:
        if savepoint.is_active or session.in_nested_transaction():
            try:
                savepoint.rollback()
            # MySQL undoes the whole transaction of a deadlock's victim, its savepoints too.
            except (SQLAlchemyError, StorageError) as error:
                session.info["lost"] = error
        raise
