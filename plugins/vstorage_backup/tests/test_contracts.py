"""The contracts that every plugin signs, from the kit of the core."""

import sqlite3
import tempfile
from contextlib import closing

import pytest

import vstorage_backup.plugin
from vstorage_core.testing import ExporterContract, ImporterContract, PluginContract


class Backup:
    @pytest.fixture
    def plugin(self):
        return vstorage_backup.plugin


class TestBackup(Backup, PluginContract):
    pass


class TestBackupExporter(Backup, ExporterContract):
    def without_time(self, content):
        with tempfile.NamedTemporaryFile() as copy:
            copy.write(content)
            copy.flush()
            with closing(sqlite3.connect(copy.name)) as file:
                return [line for line in file.iterdump() if "vstorage_backup" not in line]


class TestRestore(Backup, ImporterContract):
    pass
