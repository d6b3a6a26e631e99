"""The contracts that every plugin signs, from the kit of the core."""

import io
import zipfile

import pytest

import vstorage_parquet.plugin
from vstorage_core.testing import ExporterContract, ImporterContract, PluginContract


class Parquet:
    @pytest.fixture
    def plugin(self):
        return vstorage_parquet.plugin


class TestParquet(Parquet, PluginContract):
    pass


class TestParquetExporter(Parquet, ExporterContract):
    def without_time(self, content):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"}


class TestParquetImporter(Parquet, ImporterContract):
    @pytest.fixture
    def importer_name(self):
        return "parquet"
