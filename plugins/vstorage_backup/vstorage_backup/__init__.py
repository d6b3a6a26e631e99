"""Backups of the whole database to one SQLite file, and restoring them while the machine runs."""

from vstorage_backup.report import Finding, RestoredTable, RestoreReport, SchemaDifference
from vstorage_backup.schedule import Manifest, last_backup, take_backup
from vstorage_backup.settings import BackupSettings

__version__ = "0.1.0"

__all__ = [
    "BackupSettings",
    "Finding",
    "Manifest",
    "RestoreReport",
    "RestoredTable",
    "SchemaDifference",
    "last_backup",
    "take_backup",
]
