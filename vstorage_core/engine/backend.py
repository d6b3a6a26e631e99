"""One database, however it is reached: its engines, and how its writers take turns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Annotated, Any, Literal

import sqlalchemy
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from sqlalchemy import Connection, Engine, QueuePool, Table, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import PoolProxiedConnection

from vstorage_core.engine.driver_errors import raise_ours
from vstorage_core.errors import ConfigurationError, StorageBusy

logger = logging.getLogger("vstorage")


def _split(value: object) -> object:
    return value.split() if isinstance(value, str) else value


class EngineSettings(BaseModel):
    """The `engine` section of a storage's configuration.

    Attributes:
        durability: What a power cut can cost on SQLite. `full`: nothing that was acknowledged. `normal`: the last
            moments, never the database; far fewer syncs. `off`: the database itself.
        timeout_seconds: How long a writer waits for others, or anybody for a connection, before `StorageBusy`.
        journal_size_limit_bytes: Size at which SQLite's write-ahead log is written back and cut, readers or not.
        connect_timeout_seconds: How long a server may take to let us in, per host; after as long without a sign of
            life a connection to PostgreSQL counts as lost.
        statement_timeout_seconds: How long a server may work on one statement before `StorageBusy`; None: for ever.
        pool_size: How many connections to a server are kept open, and ten more for a moment. With more threads than
            that some may wait for long: the pool does not make them queue.
        replica_urls: Standbys of a PostgreSQL primary that answer reads outside of transactions; as one text,
            separated by spaces.
        replica_lag_limit_seconds: How old the answer of a standby may be.
    """

    model_config = ConfigDict(extra="forbid")

    durability: Literal["full", "normal", "off"] = "full"
    timeout_seconds: float = Field(default=10.0, gt=0)
    journal_size_limit_bytes: int = Field(default=64 * 1024 * 1024, gt=0)
    connect_timeout_seconds: float = Field(default=10.0, gt=0)
    statement_timeout_seconds: float | None = Field(default=None, gt=0)
    pool_size: int = Field(default=40, ge=1)
    replica_urls: Annotated[list[str], BeforeValidator(_split)] = []
    replica_lag_limit_seconds: float = Field(default=10.0, gt=0)


class Backend:
    """The engines of one database and the way its writers take turns.

    Attributes:
        write_engine: Every transaction on it may write; on SQLite it holds the write lock from its first statement.
        read_engine: Refuses writes on SQLite; the write engine elsewhere.
        single_connection: Whether the database lives in one connection, as SQLite in memory does.
        is_read_only: Whether the file or its folder cannot be written.
        writes_rows: Whether rows may be written and read through the driver's own cursor.
        has_replicas: Whether `reader` may give the engine of a replica.
    """

    single_connection = False
    is_read_only = False
    writes_rows = False
    has_replicas = False

    def __init__(self, url: URL, settings: EngineSettings) -> None:
        self.url = url
        self.settings = settings
        self.write_engine = self._open_engine(url)
        self.read_engine = self.write_engine
        if settings.replica_urls and not (self.has_replicas or self.single_connection):
            logger.warning("%s: replica_urls is only for PostgreSQL; all reads go to this database", self.url.database)

    def _open_engine(self, url: URL) -> Engine:
        raise NotImplementedError

    @property
    def engines(self) -> set[Engine]:
        """All of them."""
        return {self.write_engine, self.read_engine}

    def reader(self) -> Engine:
        """The engine for a read outside of transactions that begins now."""
        return self.read_engine

    def reader_failed(self, engine: Engine) -> None:
        """Ask this replica nothing until it is well again."""

    def state(self) -> Mapping[str, Any]:
        """What the health check tells besides that the database answers."""
        return {}

    def acquire_write(self, timeout_seconds: float | None = None) -> None:
        """Wait for the turn to write; servers let writers run side by side."""

    def release_write(self) -> None:
        """Let the next writer go."""

    def reads_at_once(self) -> bool:
        """Whether a read would wait for nothing now: no lock, no network, no connection that is yet to be opened."""
        return False

    def lock(self, connection: Connection, name: str) -> None:
        """Make transactions that lock the same `name` run one after the other, until this one ends."""
        raise NotImplementedError

    def begin_snapshot(self, connection: Connection) -> Connection:
        """All reads on the connection, up to its close, see one moment of the database."""
        return connection.execution_options(isolation_level="REPEATABLE READ")

    @contextmanager
    def row_transaction(self, timeout_seconds: float | None = None) -> Iterator[Any]:
        """The driver's cursor in a write transaction of its own."""
        raise NotImplementedError
        yield

    @contextmanager
    def row_savepoint(self, cursor: Any) -> Iterator[None]:
        """A part of the cursor's transaction that an exception undoes alone."""
        raise NotImplementedError
        yield

    def row_statement(
        self, cursor: Any, entered: Any, half_done: Callable[[BaseException], object]
    ) -> AbstractContextManager[Any]:
        """One statement that may be refused, and what must follow it, without a savepoint; may be entered repeatedly.

        Args:
            entered: What `with` gives.
            half_done: Called when it was carried out and what must follow was not; the transaction must not commit.
        """
        raise NotImplementedError

    def read_turn(self) -> AbstractContextManager[None]:
        """A turn to fetch a few hundred rows through the driver's cursor."""
        raise NotImplementedError

    @contextmanager
    def row_reader(self, connection: Connection | None = None) -> Iterator[Any]:
        """The driver's cursor for a single read: on the connection, or of what is committed."""
        raise NotImplementedError
        yield

    def advance_keys(self, connection: Connection, table: Table) -> None:
        """Let generated keys go on after the highest one in the table; most databases do so by themselves."""

    def check_files(self) -> dict[str, int]:
        """Sizes in bytes of what the database lies in; servers look after their files themselves.

        Raises:
            StorageUnavailable: It cannot be written.
        """
        return {}

    def close(self) -> None:
        """Close all connections that are not in use."""
        for engine in self.engines:
            engine.dispose()


def create_engine(url: URL, **options: Any) -> Engine:
    """SQLAlchemy's engine, raising our exceptions.

    Raises:
        ConfigurationError: The driver is not installed.
    """
    try:
        engine = sqlalchemy.create_engine(url, **options)
    except ModuleNotFoundError as error:
        extra = {"psycopg": "postgres", "pymysql": "mysql"}.get(error.name or "")
        hint = f"pip install 'vstorage-core[{extra}]'" if extra else f"pip install {error.name}"
        raise ConfigurationError(f"{url.render_as_string()} needs the driver {error.name}: {hint}") from error
    event.listen(engine, "handle_error", raise_ours)
    return engine


def pool_options(settings: EngineSettings) -> dict[str, Any]:
    """Arguments of `create_engine` for connections to a server."""
    return {
        "poolclass": _Pool,
        "pool_size": settings.pool_size,
        "max_overflow": 10,
        "pool_timeout": settings.timeout_seconds,
        "pool_pre_ping": True,
    }


class _Pool(QueuePool):
    """SQLAlchemy's pool, raising our exception."""

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except PoolTimeout as error:
            raise StorageBusy(
                "all connections to the database are in use; try again, or raise the setting engine.pool_size"
            ) from error
