"""Plugins that break what the contracts of vstorage_core.testing ask for; test_testing_kit.py runs this file."""

import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import func, select
from sqlmodel import SQLModel

from vstorage_core import Exporter, Importer, ImportRefused, acting_as, hookimpl, report_progress
from vstorage_core.testing import (
    ExporterContract,
    ImporterContract,
    LifecycleContract,
    PluginContract,
    RouterContract,
)
from vstorage_core.testing.machine import Part, Station, accessors_of

# Plugins


class Forgetful:
    """Nothing is marked as a hook."""

    def startup(self, storage): ...


class LooseSettings(BaseModel):
    speed: int = 1


class Leaky:
    """Keeps everything in a global, leaves threads behind, and locks the database when it goes."""

    everything: list[object] = []  # noqa: RUF012 (that is what is broken)

    @hookimpl
    def vstorage_startup(self, storage):
        storage.settings("leaky", LooseSettings)
        self.everything.append(storage)
        storage.extensions["leaky"] = self.everything
        threading.Thread(target=time.sleep, args=(60,), daemon=True, name="leak").start()
        with storage.engine.begin() as connection:
            connection.exec_driver_sql("DROP TRIGGER IF EXISTS locked")

    @hookimpl
    def vstorage_shutdown(self, storage):
        with storage.engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TRIGGER locked BEFORE INSERT ON kit_station BEGIN SELECT RAISE(ABORT, 'locked'); END"
            )


leaky = Leaky()


class Exporting:
    """A plugin with one exporter, which `write` is overridden for."""

    name, summary, options = (
        "odd",
        "Write something",
        type("Options", (BaseModel,), {"model_config": {"extra": "forbid"}}),
    )

    @hookimpl
    def vstorage_register_exporters(self):
        yield Exporter(
            name=self.name,
            filename="odd.txt",
            media_type="text/plain",
            write=self.write,
            summary=self.summary,
            options=self.options,
        )


class Clumsy(Exporting):
    """Everything at once, the database is written to, and the stream is treated as its own."""

    name, options = "Odd Export", LooseSettings

    def write(self, storage, stream, options):
        Path(tempfile.mkstemp()[1]).write_text("left behind")
        accessors_of(storage)[0].insert(Station(name="exported"))
        report_progress("tables", 3, 3)
        report_progress("tables", 2, 3)
        with storage.snapshot() as connection:
            rows = [row for table in storage.tables() for row in connection.execute(select(table))]
        try:
            stream.write(b"%d rows" % len(rows))
        except OSError as error:
            raise RuntimeError("the export failed") from error
        stream.close()


class Torn(Exporting):
    """Each table is read at another moment."""

    def write(self, storage, stream, options):
        for table in storage.tables():
            with storage.snapshot() as connection:
                stream.write(b"%d\n" % connection.execute(select(func.count()).select_from(table)).scalar_one())


class Stamped(Exporting):
    """The time stands in the file."""

    def write(self, storage, stream, options):
        stream.write(str(time.time_ns()).encode())


class Importing:
    """A plugin with one importer, which `read` is overridden for."""

    options = type("Options", (BaseModel,), {"model_config": {"extra": "forbid"}})

    @hookimpl
    def vstorage_register_importers(self):
        yield Importer(name="odd", path="odd", read=self.read, summary="Read something", options=self.options)


class Trusting(Importing):
    """Takes whatever it gets, tells nothing, and blames itself for all."""

    class Options(BaseModel):
        model_config = {"extra": "forbid"}

        dry_run: bool = False

    options = Options

    def read(self, storage, stream, options):
        Path(tempfile.mkstemp()[1]).write_text("left behind")
        report_progress("rows", 1, 1)
        report_progress("rows", 2, 1)
        with acting_as("the importer"):
            accessors_of(storage)[0].insert(Station(name=repr(stream.read())))
        stream.close()
        return type("Nothing", (BaseModel,), {})()


class Hasty(Importing):
    """Notices only afterwards that the file is wrong."""

    class Report(BaseModel):
        rows: int

    def read(self, storage, stream, options):
        accessors_of(storage)[0].insert(Station(name="first row"))
        if stream.read() != b"whole file\n":
            raise ImportRefused("the second row is missing")
        return self.Report(rows=1)


class Serving:
    """Hides other routes and itself, and stumbles; its module imports the web framework."""

    @hookimpl
    def vstorage_register_routers(self):
        router = APIRouter()
        router.get("/{component}/", include_in_schema=False)(lambda component: component)
        router.get("/db/square/{number}", operation_id="odd")(lambda number: int(number) ** 2)
        router.get("/db/secrets", operation_id="odd")(lambda: "secret")
        yield router


class Meddling:
    """Hides what others refuse, refuses in its own way, and fails after the commit."""

    @hookimpl(wrapper=True)
    def vstorage_before_delete(self):
        with suppress(Exception):
            return (yield)

    @hookimpl
    def vstorage_before_insert(self, instance):
        assert instance.name != "refused"

    @hookimpl
    def vstorage_after_commit(self, changes):
        raise RuntimeError("the printer is gone")


class Committing:
    """Commits the session that it is given."""

    @hookimpl
    def vstorage_after_insert(self, session):
        session.commit()


class WritingPast:
    """Changes records without the accessor or the session."""

    @hookimpl
    def vstorage_after_update(self, session, instance):
        session.connection().exec_driver_sql("UPDATE kit_part SET name = name || '!'")


# Their tests, as their authors would write them


class TestForgetful(PluginContract):
    is_installed = False

    @pytest.fixture
    def plugin(self):
        return Forgetful()


class TestLeaky(PluginContract):
    @pytest.fixture
    def plugin(self):
        return leaky


class TestClumsy(ExporterContract):
    @pytest.fixture
    def plugin(self):
        return Clumsy()


class TestTorn(ExporterContract):
    @pytest.fixture
    def plugin(self):
        return Torn()


class TestStamped(ExporterContract):
    @pytest.fixture
    def plugin(self):
        return Stamped()


class TestTrusting(ImporterContract):
    @pytest.fixture
    def plugin(self):
        return Trusting()

    @pytest.fixture
    def exporter_name(self):
        return "none"

    @pytest.fixture
    def file(self):
        return b"whole file\n"


class TestHasty(ImporterContract):
    @pytest.fixture
    def plugin(self):
        return Hasty()

    @pytest.fixture
    def exporter_name(self):
        return None

    @pytest.fixture
    def file(self):
        return b"whole file\n"


class TestServing(RouterContract):
    @pytest.fixture
    def plugin(self):
        return Serving()


class TestMeddling(LifecycleContract):
    @pytest.fixture
    def plugin(self):
        return Meddling()

    def refused_record(self) -> SQLModel:
        return Part(name="refused")


class TestCommitting(LifecycleContract):
    @pytest.fixture
    def plugin(self):
        return Committing()


class TestWritingPast(LifecycleContract):
    @pytest.fixture
    def plugin(self):
        return WritingPast()
