"""Exporters, importers and health checks as Python calls them."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable
from typing import Any, BinaryIO

import pytest
from models import Counter
from pydantic import BaseModel, ConfigDict, Field, model_validator
from trail import trail

from vstorage_core import (
    Exporter,
    HealthCheck,
    Importer,
    ImportRefused,
    InvalidInput,
    ModelAccessor,
    Progress,
    Storage,
    StorageUnavailable,
    hookimpl,
    report_progress,
)


class LineOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    prefix: str = Field(default="", max_length=3)

    @model_validator(mode="after")
    def is_readable(self) -> LineOptions:
        if self.prefix.isdecimal():
            raise ValueError("nobody could tell the prefix from the number")
        return self


class Report(BaseModel):
    created: int


def write_lines(storage: Storage, stream: BinaryIO, options: LineOptions) -> None:
    counters = ModelAccessor(Counter, "counters", storage=storage).all()
    for done, counter in enumerate(counters, start=1):
        if counter.value < 0:
            raise StorageUnavailable("the disk is full")
        stream.write(f"{options.prefix}{counter.value}\n".encode())
        report_progress("counters", done, len(counters))


def read_lines(storage: Storage, stream: BinaryIO, options: LineOptions) -> Report:
    lines = stream.read().decode().splitlines()
    bad = [{"line": number} for number, line in enumerate(lines, start=1) if not line.isdecimal()]
    if bad:
        raise ImportRefused("some lines are no numbers", bad)
    new = [Counter(value=int(line)) for line in lines]
    return Report(created=len(ModelAccessor(Counter, "counters", storage=storage).insert_many(new)))


class Lines:
    """A plugin as small as one can be."""

    check: Callable[[Storage], Any] = staticmethod(lambda storage: {"age_seconds": 1})

    @hookimpl
    def vstorage_register_exporters(self):
        yield Exporter(
            name="lines", filename="lines.txt", media_type="text/plain", write=write_lines, options=LineOptions
        )

    @hookimpl
    def vstorage_register_importers(self):
        yield Importer(name="lines", path="lines", read=read_lines, options=LineOptions)

    @hookimpl
    def vstorage_register_health_checks(self):
        yield HealthCheck(name="lines", check=self.check)


@pytest.fixture
def plugin() -> Lines:
    return Lines()


@pytest.fixture
def storage(make_database, open_storage, plugin) -> Storage:
    return open_storage(make_database("sqlite"), plugins=[plugin])


@pytest.fixture
def counters(storage) -> ModelAccessor[Counter]:
    return ModelAccessor(Counter, "counters", storage=storage)


# Exports


def test_an_export_goes_to_a_file_or_a_stream(storage, counters, tmp_path):
    counters.insert_many([Counter(value=1), Counter(value=2)])
    storage.export("lines", tmp_path / "lines.txt", prefix="- ")
    storage.export("lines", str(tmp_path / "again.txt"))
    stream = io.BytesIO()
    storage.export("lines", stream)
    assert (tmp_path / "lines.txt").read_text() == "- 1\n- 2\n"
    assert (tmp_path / "again.txt").read_text() == "1\n2\n"
    assert stream.getvalue() == b"1\n2\n"
    assert not stream.closed


def test_a_failed_export_leaves_the_old_file_and_nothing_else(storage, counters, tmp_path):
    counters.insert(Counter(value=1))
    storage.export("lines", tmp_path / "lines.txt")
    counters.insert(Counter(value=-1))
    with pytest.raises(StorageUnavailable):
        storage.export("lines", tmp_path / "lines.txt")
    assert [path.name for path in tmp_path.glob("*lines*")] == ["lines.txt"]
    assert (tmp_path / "lines.txt").read_text() == "1\n"


def test_progress_is_told_to_whoever_asked(storage, counters, tmp_path):
    counters.insert_many([Counter(value=1), Counter(value=2)])
    told: list[Progress] = []
    storage.export("lines", io.BytesIO(), progress=told.append)
    storage.export("lines", io.BytesIO())
    assert told == [Progress(label="counters", done=done, total=2) for done in (1, 2)]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("csv", {}, "there is no exporter 'csv'; this storage has: lines"),
        ("lines", {"prefx": "-"}, "lines: unknown option prefx; it knows: prefix"),
        ("lines", {"prefix": "much too long"}, "lines: prefix: String should have at most 3 characters"),
    ],
)
def test_an_export_that_cannot_be_made_is_refused_before_anything_is_written(storage, tmp_path, name, options, message):
    with pytest.raises(InvalidInput) as caught:
        storage.export(name, tmp_path / "out", **options)
    assert str(caught.value) == message
    assert not (tmp_path / "out").exists()


def test_a_storage_without_exporters_says_what_to_do(sqlite_storage):
    with pytest.raises(InvalidInput, match="this storage has: none; install a plugin that brings one"):
        sqlite_storage.export("csv", io.BytesIO())


# Imports


def test_an_import_reads_a_file_or_a_stream_and_reports(storage, counters, tmp_path):
    (tmp_path / "lines.txt").write_text("1\n2\n")
    report = storage.import_("lines", tmp_path / "lines.txt", actor="ana")
    assert report == Report(created=2)
    assert storage.import_("lines", io.BytesIO(b"3")) == Report(created=1)
    assert [counter.value for counter in counters.all()] == [1, 2, 3]
    assert [row.actor for row in trail(storage)] == ["ana", "ana", "internal"]


def test_a_refused_import_tells_what_is_wrong_and_changes_nothing(storage, counters):
    with pytest.raises(ImportRefused, match="some lines are no numbers") as caught:
        storage.import_("lines", io.BytesIO(b"1\ntwo\nthree"))
    assert caught.value.details == [{"line": 2}, {"line": 3}]
    assert counters.count() == 0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("csv", {}, "there is no importer 'csv'; this storage has: lines"),
        ("lines", {"dry": True}, "lines: unknown option dry; it knows: prefix"),
        ("lines", {"prefix": "1"}, "lines: Value error, nobody could tell the prefix from the number"),
        ("lines", {"actor": " "}, "the actor must be 1 to 255 printable characters"),
    ],
)
def test_an_import_that_cannot_be_done_is_refused(storage, counters, name, options, message):
    with pytest.raises(InvalidInput) as caught:
        storage.import_(name, io.BytesIO(b"1"), **options)
    assert str(caught.value) == message
    assert counters.count() == 0


# Health


def test_health_asks_the_database_and_every_check(storage):
    health = storage.health()
    assert health.ok
    assert dict(health.checks["lines"]) == {"age_seconds": 1, "ok": True}
    assert health.checks["database"]["ok"]


@pytest.mark.parametrize(
    ("error", "told", "logged"),
    [
        (StorageUnavailable("the last backup is 9 days old"), "the last backup is 9 days old", False),
        (KeyError("s3cret"), "failed with KeyError; see the log", True),
    ],
)
def test_a_check_that_raises_is_unhealthy_and_only_our_own_words_are_told(storage, plugin, caplog, error, told, logged):
    def check(storage: Storage) -> Any:
        raise error

    plugin.check = check
    with caplog.at_level(logging.ERROR, logger="vstorage"):
        health = storage.health()
    assert not health.ok
    assert dict(health.checks["lines"]) == {"ok": False, "error": told}
    assert health.checks["database"]["ok"]
    assert ("s3cret" in caplog.text) is logged
