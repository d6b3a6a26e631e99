"""ModelAccessor: typed reads and writes of one model, with hooks, audit and soft delete."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Generic, ParamSpec, TypeVar

import sqlalchemy
from sqlalchemy import ColumnElement, func, inspect
from sqlalchemy.orm.attributes import instance_state
from sqlmodel import Session, select

from vstorage_core.audit import AuditLog, check_actor
from vstorage_core.database import default_storage
from vstorage_core.direct import DirectRows, require_room
from vstorage_core.errors import (
    ConfigurationError,
    ConstraintViolation,
    InvalidInput,
    TransactionConflict,
)
from vstorage_core.filters import OrderBy, conditions_of, ordering_of
from vstorage_core.instances import name_reference, put_back, take_changes, take_keys_back
from vstorage_core.lifecycle import LifecycleHooks
from vstorage_core.open_database import Scope
from vstorage_core.records import SOFT_DELETE_FIELD, ModelT, Values, record_type
from vstorage_core.rows import RowPlan, listed
from vstorage_core.sessions import StorageSession
from vstorage_core.storage import Storage
from vstorage_core.unit_of_work import UnitOfWork

ParamsT = ParamSpec("ParamsT")
ResultT = TypeVar("ResultT")
_TRIES = 5


def _run_again(operation: Callable[ParamsT, ResultT]) -> Callable[ParamsT, ResultT]:
    """Run an accessor's operation again that other transactions undid, where the whole transaction is its own."""

    @functools.wraps(operation)
    def run(*args: ParamsT.args, **kwargs: ParamsT.kwargs) -> ResultT:
        accessor: Any = args[0]
        for attempt in range(1, _TRIES + 1):
            try:
                return operation(*args, **kwargs)
            except TransactionConflict:
                if attempt == _TRIES or accessor.storage.current_scope() is not None:
                    raise
                # Jitter, or those who met will meet again.
                time.sleep(random.uniform(0.005, 0.02) * 2**attempt)  # noqa: S311
        raise AssertionError("unreachable")

    return run


class ModelAccessor(LifecycleHooks, Generic[ModelT]):
    """Typed access to the records of one model.

    Every write is validated by the model, runs the lifecycle hooks, and leaves an audit row, all in one transaction:
    its own, or a savepoint of the one it is called in. What raises leaves nothing behind.

    Args:
        model: A SQLModel class with `table=True` and a key of one column. With a field `deleted_at` its records are
            soft-deleted.
        component: Name in the audit trail and in URLs.
        storage: The database; by default the default storage at the time of each call.
        audited: False keeps its changes out of the audit trail.

    Raises:
        ConfigurationError: The model is no table or has a composite key, or the component is not a usable name.
    """

    def __init__(
        self, model: type[ModelT], component: str, *, storage: Storage | None = None, audited: bool = True
    ) -> None:
        if not component or component != component.strip("/ ") or len(component) > 255:
            raise ConfigurationError(f"{component!r} cannot be a component; use a name such as 'users'")
        self.model = model
        self.component = component
        self.audited = audited
        self.record = record_type(model)
        self.record.require_single_key()
        self._storage = storage
        super().__init__()
        if storage is not None:
            storage.register(self)

    def __repr__(self) -> str:
        return f"ModelAccessor({self.model.__name__}, {self.component!r})"

    @property
    def storage(self) -> Storage:
        """The database this accessor works on."""
        if self._storage is not None:
            return self._storage
        storage = default_storage()
        storage.register(self)
        return storage

    @property
    def has_soft_delete(self) -> bool:
        """Whether records are marked deleted rather than removed."""
        return self.record.has_soft_delete

    def bound_to(self, storage: Storage) -> ModelAccessor[ModelT]:
        """This accessor on that storage, with the same hooks.

        Raises:
            ConfigurationError: It was made for another storage.
        """
        if self._storage is storage:
            return self
        if self._storage is not None:
            raise ConfigurationError(f"{self!r} belongs to {self._storage!r} and cannot work on {storage!r}")
        bound = ModelAccessor(self.model, self.component, storage=storage, audited=self.audited)
        bound.share_hooks_of(self)
        return bound

    # Reads

    def get(self, id: Any, *, include_deleted: bool = False) -> ModelT | None:
        """The record with that key, or None; a soft-deleted one only with `include_deleted`.

        Raises:
            InvalidInput: `id` cannot be a key of this model.
        """
        key = self.record.identity(id)
        plan = self._reading_plan()
        if plan is not None:
            with self.storage.row_reader() as cursor:
                values = plan.select_one(cursor, key)
            if values is None or (
                self.has_soft_delete and values[SOFT_DELETE_FIELD] is not None and not include_deleted
            ):
                return None
            return plan.make(values)  # type: ignore[return-value]
        with self.storage.use_session() as session:
            instance = self._get_in(session, key)
        if instance is None or (self._is_deleted(instance) and not include_deleted):
            return None
        return instance

    def _get_in(self, session: Session, key: Any) -> ModelT | None:
        known = session.identity_map.get(self.record.mapper.identity_key_from_primary_key((key,)))
        if known is not None and session.is_modified(known):
            return known  # type: ignore[no-any-return]
        scope = self.storage.current_scope()
        # What is stored now, also where a long session has seen the record before. A transaction is there to write, so
        # it locks what it reads by key: SQLite has locked everything, the servers need to be told.
        lock = scope is not None and scope.transactional
        with session.no_autoflush:
            return session.get(self.model, key, populate_existing=True, with_for_update=lock or None)

    def all(
        self,
        *,
        include_deleted: bool = False,
        limit: int | None = None,
        offset: int = 0,
        order_by: OrderBy = None,
        **filters: Any,
    ) -> list[ModelT]:
        """All records, ordered by key unless told otherwise."""
        return self.find(include_deleted=include_deleted, limit=limit, offset=offset, order_by=order_by, **filters)

    def find(
        self,
        *conditions: ColumnElement[bool] | bool,
        include_deleted: bool = False,
        limit: int | None = None,
        offset: int = 0,
        order_by: OrderBy = None,
        **filters: Any,
    ) -> list[ModelT]:
        """The records for which all conditions hold, e.g. `find(User.age >= 18, order_by="-age,name")`.

        Args:
            *conditions: SQLAlchemy expressions.
            **filters: `name="Ana"`, `age__gte=18`, `email__endswith="@x.com"`; see `vstorage_core.filters`.
            include_deleted: Whether soft-deleted records count.
            limit: At most so many.
            offset: Skip so many first.
            order_by: Field names, `-` for descending, separated by commas; or expressions. Ties are broken by key.

        Raises:
            InvalidInput: `order_by` or a filter names an unknown field, or `limit` or `offset` is negative.
        """
        if (limit is not None and limit < 0) or offset < 0:
            raise InvalidInput("limit and offset must not be negative")
        plan = self._reading_plan()
        statement: Any = select(self.model) if plan is None else sqlalchemy.select(*self.record.columns.values())
        statement = statement.where(*self._conditions(conditions, include_deleted, filters))
        statement = statement.order_by(*ordering_of(self.record, self.component, order_by))
        statement = statement.offset(offset or None).limit(limit)
        if plan is None:
            with self.storage.use_session() as session:
                return list(session.exec(statement).all())
        with self.storage.reading_connection() as connection:
            cursor = connection.execute(statement).cursor
            return plan.make_all(cursor, self.storage.read_turn)  # type: ignore[return-value]

    def _reading_plan(self) -> RowPlan | None:
        """How to read past the session; None inside one, whose instances and pending changes count."""
        storage = self.storage
        if storage.current_scope() is not None or storage.has_listeners(None):
            return None
        return storage.row_plan(self.model)

    def iterate(
        self,
        *conditions: ColumnElement[bool] | bool,
        include_deleted: bool = False,
        chunk_size: int = 1000,
        **filters: Any,
    ) -> Iterator[ModelT]:
        """The records one by one in the order of their keys, never more than `chunk_size` in memory.

        Holds no transaction between chunks, so the loop may write, and sees what others commit meanwhile.
        """
        key = getattr(self.model, self.record.key)
        beyond: tuple[ColumnElement[bool], ...] = ()
        while True:
            chunk = self.find(*conditions, *beyond, include_deleted=include_deleted, limit=chunk_size, **filters)
            beyond = (key > self._key_of(chunk[-1]),) if chunk else ()
            yield from chunk
            if len(chunk) < chunk_size:
                return

    def count(self, *conditions: ColumnElement[bool] | bool, include_deleted: bool = False, **filters: Any) -> int:
        """How many records there are for which all conditions hold; see `find`."""
        # Record limits ask this at each insert.
        plan = None if conditions or filters else self.storage.reading_plan(self.model)
        if plan is not None:
            with self.storage.row_reader() as cursor:
                return plan.count(cursor, include_deleted=include_deleted)
        statement = select(func.count()).select_from(self.model)
        statement = statement.where(*self._conditions(conditions, include_deleted, filters))
        with self.storage.use_session() as session:
            return int(session.exec(statement).one())

    def exists(self, id: Any, *, include_deleted: bool = False) -> bool:
        """Whether there is a record with that key."""
        key = getattr(self.model, self.record.key)
        return self.count(key == self.record.identity(id), include_deleted=include_deleted) > 0

    def _conditions(
        self, conditions: Sequence[ColumnElement[bool] | bool], include_deleted: bool, filters: Mapping[str, Any]
    ) -> list[ColumnElement[bool] | bool]:
        if self.has_soft_delete and not include_deleted:
            conditions = [*conditions, getattr(self.model, SOFT_DELETE_FIELD).is_(None)]
        return [*conditions, *conditions_of(self.record, filters)]

    def _is_deleted(self, instance: ModelT) -> bool:
        return self.has_soft_delete and getattr(instance, SOFT_DELETE_FIELD) is not None

    # Writes

    def insert(self, instance: ModelT, *, actor: str | None = None, max_records: int | None = None) -> ModelT:
        """Store a new record; returns it with its key and what the database filled in.

        Args:
            instance: Not stored yet.
            actor: Who does it; default: whom `acting_as` names, else "internal".
            max_records: Refuse it if there would be more live records then, whoever else inserts at the same time.

        Raises:
            RecordLimitReached: There are `max_records` already.
            InvalidRecord: The model does not allow its values.
            ConstraintViolation: The database refuses it, e.g. because a unique value is taken.
            InvalidInput: It is stored already (use `save`), or the actor cannot be one.
            StorageUnavailable: The database is locked, full or unreachable.
        """
        key = self._key_of_new(instance)
        try:
            direct = None if self.is_hooked("insert") else self._direct(actor, (instance,), (key,))
            if direct is not None and direct.insert_one(instance, actor, max_records):
                return instance
        except BaseException as error:
            self._not_inserted((instance,), (key,), error)
            raise
        self._insert_many([instance], actor, max_records)
        return instance

    def insert_many(
        self, instances: Iterable[ModelT], *, actor: str | None = None, max_records: int | None = None
    ) -> list[ModelT]:
        """Store new records, all or none; see `insert`. Returns them in their order.

        Tens of thousands are best made by a generator, `insert_many(User(**row) for row in rows)`.
        """
        new = listed(instances)
        self._insert_many(new, actor, max_records)
        return new

    @_run_again
    def _insert_many(self, new: Sequence[ModelT], actor: str | None, max_records: int | None) -> None:
        keys = [self._key_of_new(instance) for instance in new]
        try:
            direct = None if self.is_hooked("insert") else self._direct(actor, new, keys)
            if direct is None or not direct.insert(new, actor, max_records):
                UnitOfWork(self, actor).insert(new, keys, max_records)
        except BaseException as error:
            self._not_inserted(new, keys, error)
            raise

    def _not_inserted(self, instances: Sequence[ModelT], keys: Sequence[Any], error: BaseException) -> None:
        name_reference(error, self.storage, self.record, map(self.record.values_of, instances))
        take_keys_back(self.record, instances, keys)

    def require_room(self, count: int, max_records: int) -> None:
        """Inside a transaction: make sure that `count` more live records fit, and that nobody else takes the room
        until it ends.

        Raises:
            RecordLimitReached: There would be more than `max_records`.
            TransactionError: No transaction is open.
        """
        self.storage.lock(f"records of {self.component}")
        require_room(self.component, self.count() + count, max_records)

    def save(self, instance: ModelT, *, actor: str | None = None) -> ModelT:
        """Store the record as it is: insert it if its key is new, else update what differs from the stored row.

        Nothing is written where nothing differs. Returns the stored instance, which may be another object when the
        session knows the record already.

        Raises:
            RecordDeleted: The stored record is soft-deleted; `restore` it first.
            InvalidRecord: The model does not allow its values.
            ConstraintViolation: The database refuses it.
            StorageUnavailable: The database is locked, full or unreachable.
        """
        self._require_model(instance)
        key = self._key_of(instance)
        if key is None:
            return self.insert(instance, actor=actor)
        # The key in the model's type, or SQLAlchemy would take "7" for another key than 7.
        given = {**take_changes(self.record, instance), self.record.key: key}
        was_new = inspect(instance).transient
        try:
            direct = None if self.is_hooked("update", "insert") else self._direct(actor, [instance], [key])
            if direct is not None and direct.save(instance, key, given, actor):
                return instance
            return self._save(instance, key, given, actor)
        except BaseException as error:
            name_reference(error, self.storage, self.record, [given])
            put_back(self.record, instance, given, was_new=was_new)
            raise

    @_run_again
    def _save(self, instance: ModelT, key: Any, given: Values, actor: str | None) -> ModelT:
        return UnitOfWork(self, actor).save(instance, key, given)

    @_run_again
    def update(self, id: Any, /, *, actor: str | None = None, **fields: Any) -> ModelT | None:
        """Change only the given fields of a record; None if there is none or it is soft-deleted.

        Raises:
            InvalidInput: A field is unknown, or is the key or `deleted_at`.
            InvalidRecord: The model does not allow a value.
            ConstraintViolation: The database refuses it.
            StorageUnavailable: The database is locked, full or unreachable.
        """
        unknown = sorted(set(fields) - set(self.record.columns))
        if unknown:
            raise InvalidInput(
                f"{self.component}: no field {', '.join(unknown)}; the fields are {', '.join(self.record.columns)}"
            )
        for name, way in (
            (self.record.key, "a key never changes"),
            (SOFT_DELETE_FIELD, "use delete or restore"),
        ):
            if name in fields:
                raise InvalidInput(f"{self.component}: {name} cannot be updated; {way}")
        key = self.record.identity(id)
        try:
            return self._update(key, fields, actor)
        except ConstraintViolation as error:
            name_reference(error, self.storage, self.record, [fields])
            raise

    def _update(self, key: Any, fields: Values, actor: str | None) -> ModelT | None:
        direct = None if self.is_hooked("update") else self._direct(actor, keys=[key])
        if direct is not None:
            return direct.update(key, fields, actor)  # type: ignore[return-value]
        return UnitOfWork(self, actor).update(key, fields)

    def delete(self, id: Any, *, actor: str | None = None) -> bool:
        """Delete the record, or mark it deleted; False if there is none or it is deleted already.

        Raises:
            ConstraintViolation: Another record refers to it.
            StorageUnavailable: The database is locked, full or unreachable.
        """
        return self.delete_many([id], actor=actor) == 1

    def delete_many(self, ids: Iterable[Any], *, actor: str | None = None) -> int:
        """Delete these records, all or none; returns how many there were. See `delete`."""
        keys = list(dict.fromkeys(self.record.identity(id) for id in ids))
        try:
            return self._delete(keys, actor)
        except ConstraintViolation as error:
            if error.kind == "foreign_key":
                which = "it" if len(keys) == 1 else "one of them"
                error.name_fields([], f"another record refers to {which}; change or delete that one first")
            raise

    @_run_again
    def _delete(self, keys: Sequence[Any], actor: str | None) -> int:
        direct = None if self.is_hooked("delete") else self._direct(actor, keys=keys)
        if direct is not None:
            return direct.delete(keys, actor)
        return UnitOfWork(self, actor).delete(keys)

    @_run_again
    def restore(self, id: Any, *, actor: str | None = None) -> bool:
        """Make a soft-deleted record live again; False if there is none or the model has no soft delete.

        Raises:
            ConstraintViolation: A unique value was taken meanwhile.
            StorageUnavailable: The database is locked, full or unreachable.
        """
        if not self.has_soft_delete:
            return False
        key = self.record.identity(id)
        direct = None if self.is_hooked("restore") else self._direct(actor, keys=[key])
        if direct is not None:
            return direct.restore(key, actor)
        return UnitOfWork(self, actor).restore(key)

    def _direct(
        self, actor: str | None, instances: Sequence[ModelT] = (), keys: Sequence[Any] = ()
    ) -> DirectRows | None:
        """The way past the unit of work; None where somebody could tell the difference.

        Raises:
            InvalidInput: `actor` cannot be one; said here because rows that change nothing leave no audit row.
        """
        if actor is not None:
            check_actor(actor)
        storage = self.storage
        scope = storage.current_scope()
        direct = self._direct_rows(storage, scope)
        if direct is None:
            return None
        session = scope.session if scope else None
        for state in map(instance_state, instances):
            if state.session_id is not None and (state.session is not session or state.deleted):
                return None
        if session is not None:
            if not isinstance(session, StorageSession) or not session.is_clean:
                return None
            for key in keys if session.identity_map else ():
                if key is None:
                    continue
                known = session.identity_map.get(self.record.mapper.identity_key_from_primary_key((key,)))
                if known is not None and all(known is not instance for instance in instances):
                    return None
        return direct

    def _direct_rows(self, storage: Storage, scope: Scope | None) -> DirectRows | None:
        # Asked once per scope: a connection of SQLAlchemy's does not look for new listeners either.
        if scope is not None and self in scope.direct_rows:
            return scope.direct_rows[self]  # type: ignore[no-any-return]
        plan, audit_plan = storage.row_plan(self.model), storage.row_plan(AuditLog)
        direct = None
        if plan is not None and audit_plan is not None and not storage.has_listeners(scope):
            direct = DirectRows(storage, scope, self, plan, audit_plan)
        if scope is not None:
            scope.direct_rows[self] = direct
        return direct

    def _key_of(self, instance: ModelT) -> Any:
        state = instance_state(instance)
        if self.record.key not in state.dict and state.identity is not None:
            return state.identity[0]  # expired
        key = state.dict.get(self.record.key)
        return key if key is None else self.record.identity(key)

    def _require_model(self, instance: ModelT) -> None:
        if not isinstance(instance, self.model):
            raise InvalidInput(f"{self.component} stores {self.model.__name__}, not {type(instance).__name__}")

    def _key_of_new(self, instance: ModelT) -> Any:
        self._require_model(instance)
        state = instance_state(instance)
        if state.key is not None:
            raise InvalidInput(f"{self.component} {self._key_of(instance)} is stored already; use save()")
        key = state.dict.get(self.record.key)
        return key if key is None else self.record.identity(key)
