"""The contracts that every plugin signs, from the kit of the core."""

import io
import zipfile

import pytest

import vstorage_ndjson.plugin
from vstorage_core.testing import ExporterContract, ImporterContract, PluginContract


class Ndjson:
    @pytest.fixture
    def plugin(self):
        return vstorage_ndjson.plugin


class TestNdjson(Ndjson, PluginContract):
    pass


class TestNdjsonExporter(Ndjson, ExporterContract):
    def without_time(self, content):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {name: archive.read(name) for name in archive.namelist() if name != "manifest.json"}


class TestNdjsonImporter(Ndjson, ImporterContract):
    @pytest.fixture
    def importer_name(self):
        return "ndjson"
