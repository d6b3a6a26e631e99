"""The default storage, and the original's module functions on it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from sqlalchemy import Engine
from sqlmodel import Session

from vstorage_core.storage import Storage

__all__ = [
    "default_storage",
    "get_engine",
    "set_database_url",
    "set_default_storage",
    "transaction",
    "use_default_storage",
    "use_session",
]

# The one piece of mutable module state: accessors that were made without a storage need to find one.
_default: list[Storage] = []


def default_storage() -> Storage:
    """The storage that accessors use when they were given none; made on first use."""
    if not _default:
        _default.append(Storage())
    return _default[0]


def set_default_storage(storage: Storage) -> None:
    """Make `storage` the default from now on; the one before stays open for whoever holds it."""
    _default[:] = [storage]


@contextmanager
def use_default_storage(storage: Storage) -> Iterator[Storage]:
    """Make `storage` the default inside the block, e.g. in a test, and put the one before back."""
    before = list(_default)
    set_default_storage(storage)
    try:
        yield storage
    finally:
        _default[:] = before


def set_database_url(url: str) -> None:
    """Make the default storage one of that URL; the current one stays when it has the same.

    Raises:
        ConfigurationError: The URL cannot work.
    """
    storage = Storage(url)
    if not _default or _default[0].url != storage.url:
        set_default_storage(storage)


def get_engine() -> Engine:
    """SQLAlchemy's engine of the default storage."""
    return default_storage().engine


def transaction() -> AbstractContextManager[Session]:
    """`Storage.transaction` of the default storage."""
    return default_storage().transaction()


def use_session(session: Session | None = None) -> AbstractContextManager[Session]:
    """`Storage.use_session` of the default storage."""
    return default_storage().use_session(session)
