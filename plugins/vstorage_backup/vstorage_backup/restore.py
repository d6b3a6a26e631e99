"""Restoring: the rows of a checked file replace the rows of our tables, in one transaction.

Our tables stay as they are, so nothing but rows comes in with the file. Readers see the old rows until they see the
new ones, and whatever happens before the commit leaves the old ones.

    receive        what is not a file yet                   upload.py
    check          structure, SQLite's own checks           upload.py       meanwhile on other cores: the live tables,
    compare        with the models and the live database    inspection.py   the safety copy, SHA-256
    lock, replace  what differs, the trail, its audit row   sqlite_rows.py, server_rows.py
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO

from sqlalchemy import text

from vstorage_backup.export import copy_pages, writing
from vstorage_backup.files import claimed, lock_path, require_space, source_of, temporary_file
from vstorage_backup.helpers import Helpers
from vstorage_backup.live import opened_live
from vstorage_backup.replacement import Replacement
from vstorage_backup.report import RestoreOptions, RestoreReport
from vstorage_backup.safety import SafetyCopy
from vstorage_backup.server_rows import replace_on_server
from vstorage_backup.settings import BackupSettings, Places, backup_settings, places_of, require_usual_locks
from vstorage_backup.sqlite_rows import replace_on_sqlite
from vstorage_backup.upload import opened, receive
from vstorage_core import ConfigurationError, ImportInProgress, ImportRefused, Storage, TransactionError
from vstorage_core.audit import AUDIT_TABLE

# The database's own lock, let go when the connection ends however that happens; 0 and NULL mean that another has it.
_SERVER_LOCKS = {
    "postgresql": (
        "SELECT pg_try_advisory_lock(hashtext('vstorage_backup restore'))",
        "SELECT pg_advisory_unlock(hashtext('vstorage_backup restore'))",
    ),
    "mysql": (
        "SELECT get_lock(concat('vstorage_backup restore ', md5(database())), 0)",
        "SELECT release_lock(concat('vstorage_backup restore ', md5(database())))",
    ),
}


def restore(storage: Storage, stream: BinaryIO, options: RestoreOptions) -> RestoreReport:
    """Replace the rows of all tables by those of a backup; the importer `restore`.

    Raises:
        ImportRefused: The file is no backup that fits this application; nothing was changed.
        ImportInProgress: Another restore of this database runs.
        StorageUnavailable: The disk would be filled, or writers held the database for too long; nothing was changed.
        TransactionError: It is called inside a session or transaction.
        ConfigurationError: The database has no tables, or its URL names a vfs.
    """
    started = time.monotonic()
    require_usual_locks(storage)
    if storage.current_scope() is not None:
        raise TransactionError(
            "a restore cannot run inside a session or transaction of its storage; end that one first"
        )
    settings, places = backup_settings(storage), places_of(storage)
    tables = [table for table in storage.tables() if table is not AUDIT_TABLE]
    if not tables:
        raise ConfigurationError(
            "the database has no tables yet; create them with bootstrap(…) or storage.create_tables(), then restore"
        )
    with ExitStack() as stack:
        if not options.dry_run:
            stack.enter_context(_alone(storage, places))
        path = stack.enter_context(_file_of(stream, places, settings, options))
        safety = stack.enter_context(SafetyCopy(places, settings))
        live = None if places.database is None else stack.enter_context(opened_live(places.database))
        early = live if live is not None and live.has_log else None
        helpers = stack.enter_context(Helpers())
        checks = opened(path, helpers, integrity_check=options.integrity_check, max_seconds=settings.max_check_seconds)
        with ExitStack() as meanwhile:
            # In the order in which it is needed.
            if early is not None:
                meanwhile.enter_context(early.checked_by(helpers, tables))
                if not options.dry_run:
                    copy = partial(copy_pages, early.path)
                    meanwhile.enter_context(safety.taken_by(helpers, copy, storage.engine.dialect))
            upload = stack.enter_context(checks)
            replacement = Replacement(storage, upload, options, tables, safety, live)
            refusal = replacement.inspection.refusal
            if options.dry_run or early is not None:
                with storage.snapshot() as connection:
                    replacement.survey(connection)
            if refusal is not None and not options.dry_run:
                raise ImportRefused(refusal, replacement.inspection.details())
        if not options.dry_run:
            upload.end_checks()
            # At the end once more; here because a file that is gone could not even be attached.
            upload.require_unchanged()
            if storage.engine.dialect.name == "sqlite":
                replace_on_sqlite(replacement, places.database)
            else:
                replace_on_server(replacement)
            safety.prune()
        report = RestoreReport(
            restored=not options.dry_run,
            refused_because=refusal,
            duration_seconds=round(time.monotonic() - started, 3),
            **replacement.report(),
        )
    if report.restored:
        storage.replaced()
    return report


@contextmanager
def _file_of(stream: BinaryIO, places: Places, settings: BackupSettings, options: RestoreOptions) -> Iterator[Path]:
    """The file that the stream reads, where it lies; what is no file is stored as one for the block."""
    size = stream.seek(0, os.SEEK_END)
    stream.seek(0)
    path = source_of(stream)
    if path is not None and places.database is not None and path.samefile(places.database):
        raise ImportRefused("the file is the database itself; restore a backup of it")
    # The file, and on SQLite also the log of the transaction.
    copies = (path is None) + (places.database is not None and not options.dry_run)
    require_space(places.work, copies * size, settings.min_free_bytes, "the restore")
    if path is not None:
        yield path
        return
    with temporary_file(places.work, places.name) as path:
        with writing("the uploaded file"):
            receive(stream, path, size)
        yield path


@contextmanager
def _alone(storage: Storage, places: Places) -> Iterator[None]:
    """One restore of a database at a time, in this process and in all others."""
    dialect = storage.engine.dialect.name
    with ExitStack() as stack:
        if places.database is not None:
            is_alone = stack.enter_context(claimed(lock_path(places.work, places.name, "restore")))
        elif dialect == "sqlite":
            lock: threading.Lock = storage.extensions.setdefault("backup.restoring", threading.Lock())
            is_alone = lock.acquire(blocking=False)
            if is_alone:
                stack.callback(lock.release)
        else:
            connection = stack.enter_context(storage.engine.connect())
            connection.execution_options(isolation_level="AUTOCOMMIT")
            acquire, release = _SERVER_LOCKS[dialect]
            is_alone = bool(connection.scalar(text(acquire)))
            if is_alone:
                stack.callback(connection.execute, text(release))
        if not is_alone:
            raise ImportInProgress("another restore of this database is running; wait until it has ended")
        yield
