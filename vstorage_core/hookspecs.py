"""Every hook of the core: when it runs, what it may touch, what raising means.

Implement one by decorating a function of your plugin with `hookimpl`, naming only the arguments you use:

    from vstorage_core import hookimpl

    @hookimpl
    def vstorage_after_insert(instance): ...

Order of the implementations: wrappers around all, then `tryfirst`, the accessor's own decorators as written,
plugins by entry-point name A to Z, `trylast`. Hooks are plain functions: an async one is refused at load.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pluggy import HookimplMarker, HookspecMarker
from sqlmodel import Session, SQLModel

from vstorage_core.contributions import Change, Exporter, HealthCheck, Importer

if TYPE_CHECKING:
    from vstorage_core.accessor import ModelAccessor
    from vstorage_core.storage import Storage

PROJECT = "vstorage"
hookspec = HookspecMarker(PROJECT)
hookimpl = HookimplMarker(PROJECT)


@hookspec
def vstorage_startup(storage: Storage) -> None:
    """Runs once when the storage starts, before tables are created. Raising stops the start."""


@hookspec
def vstorage_shutdown(storage: Storage) -> None:
    """Runs once when a started storage closes, before its connections go. Raising is logged."""


@hookspec
def vstorage_migrate(storage: Storage) -> None:
    """Bring the existing tables up to the models, all or nothing. Raising stops the start.

    Runs when `bootstrap` was told `auto_migrate=True`, after `vstorage_startup` and before tables are created.
    """


@hookspec
def vstorage_register_exporters(storage: Storage) -> Iterable[Exporter]:
    """Return the exporters you provide. Called once, when they are first asked for; raising reaches whoever asked."""
    raise NotImplementedError


@hookspec
def vstorage_register_importers(storage: Storage) -> Iterable[Importer]:
    """Return the importers you provide. Called once, when they are first asked for; raising reaches whoever asked."""
    raise NotImplementedError


@hookspec
def vstorage_register_health_checks(storage: Storage) -> Iterable[HealthCheck]:
    """Return the checks that `storage.health()` asks. Called once, at the first question."""
    raise NotImplementedError


@hookspec
def vstorage_register_routers(
    storage: Storage,
    accessors: Sequence[ModelAccessor[Any]],
    max_records_per_model: int | None,
    enable_db_router: bool,
) -> Iterable[Any]:
    """Return routers for the web application that `bootstrap` was given. Called only when there is one.

    `accessors` are bound to `storage`. What a router is, the application decides: `bootstrap` passes each to its
    `include_router`. Two routers with the same route stop the start.
    """
    raise NotImplementedError


@hookspec
def vstorage_before_insert(accessor: ModelAccessor[Any], session: Session, instance: SQLModel, actor: str) -> None:
    """Runs in the transaction, before `instance` is validated and stored; it may have no key yet.

    May change it and may write through accessors. Raising refuses the insert: nothing of it is stored.
    """


@hookspec
def vstorage_after_insert(accessor: ModelAccessor[Any], session: Session, instance: SQLModel, actor: str) -> None:
    """Runs in the transaction, after `instance` and its audit row are written. Raising undoes the insert."""


@hookspec
def vstorage_before_update(
    accessor: ModelAccessor[Any], session: Session, instance: SQLModel, actor: str, before: Mapping[str, Any]
) -> None:
    """Runs in the transaction, before the changed `instance` is validated and stored.

    `before` holds the stored values by field. May change `instance`. Raising refuses the update.
    """


@hookspec
def vstorage_after_update(
    accessor: ModelAccessor[Any], session: Session, instance: SQLModel, actor: str, before: Mapping[str, Any]
) -> None:
    """Runs in the transaction, after `instance` and its audit row are written. Raising undoes the update."""


@hookspec
def vstorage_before_delete(accessor: ModelAccessor[Any], session: Session, instance: SQLModel, actor: str) -> None:
    """Runs in the transaction, before `instance` is deleted or soft-deleted. Raising refuses the delete."""


@hookspec
def vstorage_after_delete(accessor: ModelAccessor[Any], session: Session, instance: SQLModel, actor: str) -> None:
    """Runs in the transaction, after the delete and its audit row are written. Raising undoes the delete."""


@hookspec
def vstorage_before_restore(accessor: ModelAccessor[Any], session: Session, instance: SQLModel, actor: str) -> None:
    """Runs in the transaction, before a soft-deleted `instance` is restored. Raising refuses the restore."""


@hookspec
def vstorage_after_restore(accessor: ModelAccessor[Any], session: Session, instance: SQLModel, actor: str) -> None:
    """Runs in the transaction, after the restore and its audit row are written. Raising undoes the restore."""


@hookspec
def vstorage_after_commit(storage: Storage, changes: Sequence[Change]) -> None:
    """Runs after a transaction that changed records has committed, outside of it.

    The data is saved and visible to everyone: send, print, publish here. Raising is logged and stops nobody else.
    """


@hookspec
def vstorage_after_replace(storage: Storage) -> None:
    """Runs after the whole database was replaced, e.g. by restoring a backup: drop your caches. Raising is logged."""
