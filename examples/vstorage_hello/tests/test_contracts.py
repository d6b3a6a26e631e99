"""The contracts that every plugin signs, from the kit of the core: all that a test file of its own needs."""

import pytest

import vstorage_hello.plugin
from vstorage_core.testing import ExporterContract, LifecycleContract, PluginContract, RouterContract
from vstorage_core.testing.machine import Part


class Hello:
    @pytest.fixture
    def plugin(self):
        return vstorage_hello.plugin


class TestHello(Hello, PluginContract):
    pass


class TestGreeting(Hello, ExporterContract):
    pass


class TestRoutes(Hello, RouterContract):
    pass


class TestRefusingRudeNames(Hello, LifecycleContract):
    def refused_record(self):
        return Part(name="Blockhead")
