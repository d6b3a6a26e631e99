"""The contracts that every plugin signs, from the kit of the core."""

import io
import zipfile

import pytest

import vstorage_csv.plugin
from vstorage_core.testing import ExporterContract, ImporterContract, PluginContract


class Csv:
    @pytest.fixture
    def plugin(self):
        return vstorage_csv.plugin


class TestCsv(Csv, PluginContract):
    pass


class TestCsvExporter(Csv, ExporterContract):
    def without_time(self, content):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"}


class TestCsvImporter(Csv, ImporterContract):
    @pytest.fixture
    def importer_name(self):
        return "csv"
