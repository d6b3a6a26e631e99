"""Restoring: the rows of a checked file replace the rows of our tables, in one transaction.

Our tables stay as they are, so nothing but rows comes in with the file. Readers see the old rows until they see the
new ones, and whatever happens before the commit leaves the old ones.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import BinaryIO

from sqlalchemy import text

from vstorage_backup.export import writing
from vstorage_backup.files import claimed, lock_path, require_space, temporary_file
from vstorage_backup.replacement import Replacement
from vstorage_backup.report import RestoreOptions, RestoreReport
from vstorage_backup.server_rows import replace_on_server
from vstorage_backup.settings import Places, backup_settings, places_of, require_usual_locks
from vstorage_backup.sqlite_rows import replace_on_sqlite
from vstorage_backup.upload import opened, receive
from vstorage_core import ImportInProgress, ImportRefused, Storage, TransactionError

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
        ConfigurationError: The URL of the database names a vfs.
    """
    started = time.monotonic()
    require_usual_locks(storage)
    if storage.current_scope() is not None:
        raise TransactionError(
            "a restore cannot run inside a session or transaction of its storage; end that one first"
        )
    settings, places = backup_settings(storage), places_of(storage)
    with ExitStack() as stack:
        if not options.dry_run:
            stack.enter_context(_alone(storage, places))
        path = stack.enter_context(temporary_file(places.work, places.name))
        size = stream.seek(0, os.SEEK_END)
        stream.seek(0)
        # The file, and on SQLite also the log of the transaction.
        copies = 1 if options.dry_run or places.database is None else 2
        require_space(places.work, copies * size, settings.min_free_bytes, "the restore")
        with writing("the uploaded file"):
            sha256 = receive(stream, path, size)
        checks = opened(path, sha256, integrity_check=options.integrity_check, max_seconds=settings.max_check_seconds)
        upload = stack.enter_context(checks)
        replacement = Replacement(storage, upload, options)
        refusal = replacement.inspection.refusal
        if options.dry_run:
            with storage.snapshot() as live:
                replacement.survey(live)
        elif refusal is not None:
            raise ImportRefused(refusal, replacement.inspection.details())
        else:
            upload.end_checks()
            replace = replace_on_sqlite if storage.engine.dialect.name == "sqlite" else replace_on_server
            replace(replacement)
            replacement.safety.prune()
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
