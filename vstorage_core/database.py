"""The original's module functions, on the default storage."""

from __future__ import annotations

from contextlib import AbstractContextManager

from sqlalchemy import Engine
from sqlmodel import Session

from vstorage_core.storage import Storage, default_storage, set_default_storage

__all__ = ["get_engine", "set_database_url", "transaction", "use_session"]


def set_database_url(url: str) -> None:
    """Make the default storage one of that URL; the current one stays when it has the same.

    Raises:
        ConfigurationError: The URL cannot work.
    """
    storage = Storage(url)
    if default_storage().url != storage.url:
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
