"""A session of a storage: when it holds the turn to write, what it has changed, how its flushes are audited."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from sqlalchemy import Engine, Result, event, inspect
from sqlalchemy.orm import InstanceState, ORMExecuteState, SessionTransaction
from sqlalchemy.sql.dml import UpdateBase
from sqlmodel import Session, SQLModel

from vstorage_core.audit import AuditLog, FlushAudit, write_entries
from vstorage_core.contributions import Change
from vstorage_core.engine import Backend
from vstorage_core.errors import StorageUnavailable, TransactionError
from vstorage_core.records import record_type
from vstorage_core.rows import is_any_heard

if TYPE_CHECKING:
    from vstorage_core.open_database import OpenDatabase

# SQLAlchemy's events that a row past the unit of work does not fire.
_SESSION_EVENTS = attrgetter(
    "after_flush_postexec", "do_orm_execute", "after_begin", "before_commit", "after_commit", "after_rollback",
    "before_attach", "after_attach", "pending_to_persistent", "detached_to_persistent", "loaded_as_persistent",
    "persistent_to_deleted",
)  # fmt: skip
_ENGINE_EVENTS = attrgetter(
    "before_execute", "after_execute", "before_cursor_execute", "after_cursor_execute", "commit", "rollback"
)
_STREAMED = {"yield_per", "stream_results"}
_KEY_WAS_MADE = "vstorage_key_was_made"


class StorageSession(Session):
    """A session of a storage: reads until the first write, then holds the write turn until its transaction ends."""

    def __init__(self, storage: OpenDatabase, backend: Backend) -> None:
        super().__init__(backend.write_engine, expire_on_commit=False)
        self.storage = storage
        self.backend = backend
        self.writing = False
        self.write_timeout_seconds: float | None = None
        # Whether a part of its transaction runs that is stored as a whole: an accessor's operation, a savepoint.
        self.is_held = False
        # What was written into the audit trail; always the same list, to which transactions for rows append.
        self.changes: list[Change] = []
        self.committed: list[Change] = []
        # How many changes there were when a transaction or savepoint began. Weak, or a long transaction would keep
        # every savepoint that it ever had.
        self.marks: WeakKeyDictionary[SessionTransaction, int] = WeakKeyDictionary()
        self._statement: tuple[SessionTransaction | None, AbstractContextManager[RowTransaction] | None] = (None, None)
        # Who answered last, and whether it is the primary's turn until the transaction ends.
        self._reader = backend.read_engine
        self._leaves_replicas = False
        if backend.has_replicas:
            event.listen(self, "do_orm_execute", _read_elsewhere)

    def commit(self) -> None:
        """Commit; what was written is told to the commit listeners when the scope ends.

        Raises:
            TransactionError: It is called in a hook or in an inner `transaction()`.
        """
        self._require_free("commit")
        super().commit()
        self.committed += self.changes
        self.changes.clear()

    def rollback(self) -> None:
        """Undo what is not committed; refused where `commit` is."""
        self._require_free("rollback")
        super().rollback()

    def close(self) -> None:
        """Undo it and forget all instances; refused where `commit` is."""
        self._require_free("close")
        super().close()

    def _require_free(self, method: str) -> None:
        if self.is_held:
            raise TransactionError(
                f"session.{method}() here would end the transaction in the middle of what is stored as a whole (the"
                " operation of a hook, an inner transaction()); leave it out, or raise an exception to undo that"
            )

    def begin_write(self) -> None:
        """Wait for the turn to write and take it.

        Raises:
            StorageBusy: Other writers did not finish in time.
        """
        if not self.writing:
            self.backend.acquire_write(self.write_timeout_seconds)
            self.writing = True

    def lose(self, error: BaseException) -> None:
        """Refuse to commit the transaction: what the error left of it is not whole."""
        self.info["lost"] = error

    @property
    def is_clean(self) -> bool:
        """Whether no unit of work is pending; SQLAlchemy's `new`, `dirty` and `deleted` make a set each."""
        return not (self._new or self._deleted or self.identity_map._modified)

    def begin_rows(self, changes: list[Change]) -> RowTransaction:
        """The write transaction, for rows that no unit of work handles; what they change is put into the list."""
        self.begin_write()
        # Also sends the SAVEPOINT that SQLAlchemy puts off until the connection is asked for.
        return RowTransaction(self.connection().connection.cursor(), changes, self)

    def row_statement(self) -> AbstractContextManager[RowTransaction]:
        """The same for one row; the object that the last one got, while transaction and savepoint are the same."""
        known, statement = self._statement
        if statement is None or known is not (self._nested_transaction or self._transaction):
            row = self.begin_rows(self.changes)
            statement = self.backend.row_statement(row.cursor, row, self.lose)
            self._statement = (self._nested_transaction or self._transaction, statement)
        return statement

    def get_bind(self, mapper: Any = None, *, clause: Any = None, **kwargs: Any) -> Engine:
        """SQLAlchemy's question which engine to use: the reading one until something is written."""
        if self._flushing or self.backend.single_connection or isinstance(clause, UpdateBase):
            self.begin_write()
        if self.writing:
            return self.backend.write_engine
        # Who asks for a connection and not for a statement's answer may do anything with it.
        if not self.backend.has_replicas or self._leaves_replicas or (mapper is None and clause is None):
            return self.backend.read_engine
        self._reader = self.backend.reader()
        return self._reader

    def leave_replicas(self) -> None:
        """Ask none of them until the transaction ends."""
        self._leaves_replicas = True

    def begins_again(self) -> bool:
        """After a statement failed: go on with the primary; False where it did not fail on a replica.

        Also False where the session has instances, which would be lost with its transaction.
        """
        if self.writing or self._reader is self.backend.read_engine or self.identity_map or self.new:
            return False
        self.backend.reader_failed(self._reader)
        self.rollback()
        self.begin_write()
        return True


def _read_elsewhere(state: ORMExecuteState) -> Result[Any]:
    """SQLAlchemy event: run what a replica could not answer again, on the primary."""
    session = cast(StorageSession, state.session)
    if not _STREAMED.isdisjoint(state.execution_options):
        # What has come of it so far cannot be taken back when it breaks.
        session.leave_replicas()
    try:
        return state.invoke_statement()
    except StorageUnavailable:
        if not session.begins_again():
            raise
    return state.invoke_statement()


@event.listens_for(StorageSession, "after_transaction_end")
def _release_write(session: StorageSession, transaction: SessionTransaction) -> None:
    if transaction.parent is None:
        session._statement = (None, None)
        session._leaves_replicas = False
        if session.writing:
            session.writing = False
            session.backend.release_write()


@event.listens_for(StorageSession, "after_transaction_create")
def _mark_changes(session: StorageSession, transaction: SessionTransaction) -> None:
    session.marks[transaction] = len(session.changes)


@event.listens_for(StorageSession, "after_soft_rollback")
def _forget_changes(session: StorageSession, transaction: SessionTransaction) -> None:
    del session.changes[session.marks[transaction] :]


@event.listens_for(StorageSession, "persistent_to_transient")
def _take_key_back(_session: StorageSession, instance: object) -> None:
    # The insert was rolled back: somebody else may get the key before it is tried again.
    if isinstance(instance, SQLModel) and inspect(instance).__dict__.pop(_KEY_WAS_MADE, False):
        setattr(instance, record_type(type(instance)).key, None)


@contextmanager
def held(session: Session) -> Iterator[None]:
    """Let nobody end the session's transaction in the block: half would be stored, or less than the caller is told."""
    if not isinstance(session, StorageSession):
        yield
        return
    outer, session.is_held = session.is_held, True
    try:
        yield
    finally:
        session.is_held = outer


def remember_key(state: InstanceState[Any], *, was_made: bool) -> None:
    """Note whether the instance loses its key when its insert is rolled back; while it holds the key it came with."""
    # Not in `state.info`, which SQLAlchemy makes for whoever asks: that takes longer than the rest.
    state.__dict__[_KEY_WAS_MADE] = was_made


class RowTransaction:
    """A write transaction for rows that no unit of work handles.

    Attributes:
        cursor: The driver's.
        changes: What was written into the audit trail, for the commit listeners.
        session: The session whose transaction it is part of, if there is one.
    """

    def __init__(self, cursor: Any, changes: list[Change], session: StorageSession | None = None) -> None:
        self.cursor = cursor
        self.changes = changes
        self.session = session


def watch_flushes(session: Any, storage: OpenDatabase | None = None) -> None:
    """Validate and audit what sessions of this class, or this one session, write."""
    if isinstance(session, Session):
        if event.contains(session, "before_flush", _before_flush):
            return
        session.info["vstorage"] = storage
    event.listen(session, "before_flush", _before_flush)
    event.listen(session, "after_flush", _after_flush)


def _storage_of(session: Session) -> OpenDatabase:
    storage: OpenDatabase = session.storage if isinstance(session, StorageSession) else session.info["vstorage"]
    return storage


def _before_flush(session: Session, _context: object, _instances: object) -> None:
    storage = _storage_of(session)
    for instance in [*session.new, *session.dirty]:
        if isinstance(instance, SQLModel) and not isinstance(instance, AuditLog):
            _validate(storage, instance)
    session.info["vstorage_flush"] = FlushAudit(session, storage.component_of)


def _after_flush(session: Session, _context: object) -> None:
    changes = write_entries(session.connection(), session.info.pop("vstorage_flush").entries(session))
    if isinstance(session, StorageSession):
        session.changes += changes


def _validate(storage: OpenDatabase, instance: SQLModel) -> None:
    state = inspect(instance)
    record = record_type(type(instance))
    component = storage.component_of(type(instance)) or record.mapper.local_table.name
    values = {name: state.dict[name] for name in record.columns if name in state.dict}
    changed = None
    if state.persistent:
        changed = {name for name in values if state.attrs[name].history.has_changes()}
    else:
        remember_key(state, was_made=values.get(record.key) is None)
    for name, value in record.validate(component, values, changed).items():
        if (changed is None or name in changed) and value is not values[name]:
            setattr(instance, name, value)


watch_flushes(StorageSession)


def is_listened_to(session: Session, backend: Backend) -> bool:
    """Whether somebody besides us listens to SQLAlchemy's events of the session or of the engines."""
    dispatch = session.dispatch
    return (
        len(dispatch.before_flush) > 1  # our own
        or len(dispatch.after_flush) > 1
        or is_any_heard(
            _SESSION_EVENTS(dispatch)
            + _ENGINE_EVENTS(backend.write_engine.dispatch)
            + _ENGINE_EVENTS(backend.read_engine.dispatch)
        )
    )
