"""Bringing the tables of a database up to the models: all that is missing, or nothing."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Enum, Table, literal_column, select
from sqlalchemy.exc import SQLAlchemyError

from vstorage_core import Storage, StorageError, StorageUnavailable
from vstorage_migrate.copies import CopySettings, SafetyCopy
from vstorage_migrate.planning import Plan, Step, plan, planned

logger = logging.getLogger("vstorage.migrate")


class MigrationRefused(StorageError):
    """The database cannot be brought up to the models automatically; nothing was changed.

    Attributes:
        plan: What differs.
    """

    def __init__(self, message: str, plan: Plan) -> None:
        self.plan = plan
        super().__init__(message)


@dataclass(frozen=True, kw_only=True)
class Migration:
    """What was done.

    Attributes:
        plan: The steps that were taken; empty when nothing was to do.
        copy: The copy of the SQLite file as it was before, or None.
    """

    plan: Plan
    copy: Path | None = None


def migrate(storage: Storage) -> Migration:
    """Add to the database what the models have and it has not; all of it, or nothing.

    One process does it, others wait. An SQLite file is copied before. On MariaDB, where each statement is final, what
    was added is taken away again when a later one fails, and what a killed process has left undone is done next time.

    Raises:
        MigrationRefused: Something differs that only a person can resolve, or a statement failed.
        StorageBusy: Other writers held the database for too long.
        StorageUnavailable: The database cannot be used, or there is no room for the copy.
    """
    # Most often there is nothing to do, and then nobody must wait.
    if plan(storage).is_empty:
        return Migration(plan=Plan())
    with storage.transaction() as session:
        storage.lock("migrate")
        with _altering(session.connection()) as connection:
            # Once more: another process may have been faster.
            current = planned(storage, connection)
            if current.is_refused:
                raise MigrationRefused(f"{storage.url} was not changed.\n{current}", current)
            if current.is_empty:
                return Migration(plan=current)
            copy = SafetyCopy(connection, storage.settings("migrate", CopySettings))
            with copy.discarded_on_error():
                copy.take()
                _apply(storage, connection, current)
    copy.prune()
    for step in current.steps:
        logger.info("%s: %s", storage.url, step)
    if copy.path is not None:
        logger.info("%s: the database as it was before is in %s", storage.url, copy.path)
    return Migration(plan=current, copy=copy.path)


@contextmanager
def _altering(locked: Connection) -> Iterator[Connection]:
    """The connection to change tables on."""
    if locked.dialect.name != "mysql":
        yield locked
        return
    # A changed table commits, which would give up the lock.
    with locked.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


def _apply(storage: Storage, connection: Connection, current: Plan) -> None:
    operations = Operations(MigrationContext.configure(connection))
    undo = _Undo(connection, operations)
    with undo.on_error():
        tables = [step.action for step in current.steps if isinstance(step.action, Table)]
        undo.tables = tables
        for metadata in storage.metadata():
            with _naming(storage, current, "the new tables"):
                metadata.create_all(connection, tables=[table for table in tables if table.metadata is metadata])
        for step in current.steps:
            if not isinstance(step.action, Table):
                with _naming(storage, current, str(step)):
                    _take(operations, step)
                undo.steps.append(step)
        left = planned(storage, connection)
        if not left.is_empty:
            raise MigrationRefused(f"{storage.url} was not changed: after all steps there would remain\n{left}", left)


def _take(operations: Operations, step: Step) -> None:
    column = getattr(step.action, "column", None)
    if column is not None and isinstance(column.type, Enum):
        # PostgreSQL wants the type first.
        create = getattr(column.type.dialect_impl(operations.get_bind().dialect), "create", None)
        if create is not None:
            create(operations.get_bind(), checkfirst=True)
    operations.invoke(step.action)  # type: ignore[arg-type]


@contextmanager
def _naming(storage: Storage, current: Plan, what: str) -> Iterator[None]:
    """Say which step failed."""
    try:
        yield
    except StorageUnavailable:
        raise
    except (SQLAlchemyError, StorageError) as error:
        cause = getattr(error, "orig", None) or error
        raise MigrationRefused(f"{storage.url} was not changed: {what} failed with: {cause}", current) from error


class _Undo:
    """Takes away what was added where the database cannot roll back a changed table."""

    def __init__(self, connection: Connection, operations: Operations) -> None:
        self._connection = connection
        self._operations = operations
        self.tables: list[Table] = []
        self.steps: list[Step] = []

    @contextmanager
    def on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            if self._connection.dialect.name == "mysql":
                self._undo()
            raise

    def _undo(self) -> None:
        for step in reversed(self.steps):
            self._operations.invoke(step.action.reverse())  # type: ignore[union-attr]
        # Another process may have created it and be using it.
        unused = [
            table
            for table in self.tables
            if self._connection.dialect.has_table(self._connection, table.name)
            and self._connection.scalar(select(literal_column("1")).select_from(table).limit(1)) is None
        ]
        for metadata in {id(table.metadata): table.metadata for table in unused}.values():
            metadata.drop_all(self._connection, tables=[table for table in unused if table.metadata is metadata])
