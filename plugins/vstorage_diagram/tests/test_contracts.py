"""The contracts that every plugin signs, from the kit of the core."""

import pytest

import vstorage_diagram.plugin
from vstorage_core.testing import ExporterContract, PluginContract


class Diagram:
    @pytest.fixture
    def plugin(self):
        return vstorage_diagram.plugin


class TestDiagram(Diagram, PluginContract):
    pass


class TestDiagramExporters(Diagram, ExporterContract):
    @pytest.fixture(params=["diagram", "mermaid", "dot"])
    def exporter_name(self, request):
        return request.param
