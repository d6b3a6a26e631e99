"""How a database is opened and locked, per dialect. No other package of the core asks which dialect it is on."""

from __future__ import annotations

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from vstorage_core.engine.backend import Backend, EngineSettings
from vstorage_core.engine.gate import Owner, current_owner
from vstorage_core.errors import ConfigurationError

__all__ = ["Backend", "EngineSettings", "Owner", "current_owner", "open_backend"]


def open_backend(url: str, settings: EngineSettings) -> Backend:
    """Open the database that the URL names.

    Raises:
        ConfigurationError: The URL is malformed, of an unsupported database, or its driver is not installed.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError(
            f"{url!r} is not a database URL; write e.g. sqlite:///./machine.db or postgresql://user@host/name"
        ) from None
    name = parsed.get_backend_name()
    # Imported where they are needed: a machine does not wait for the dialects of databases that it does not have.
    if name == "sqlite":
        from vstorage_core.engine.sqlite import SqliteBackend

        return SqliteBackend(parsed, settings)
    # Without a driver in the URL SQLAlchemy picks another one from release to release.
    if name in ("postgresql", "postgres"):
        from vstorage_core.engine.servers import PostgresqlBackend

        return PostgresqlBackend(parsed.set(drivername="postgresql+psycopg"), settings)
    if name in ("mysql", "mariadb"):
        from vstorage_core.engine.servers import MysqlBackend

        return MysqlBackend(parsed.set(drivername="mysql+pymysql"), settings)
    raise ConfigurationError(f"{name!r} is not supported; use sqlite, postgresql, mysql or mariadb")
