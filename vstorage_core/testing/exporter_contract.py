"""What every exporter must do: write one moment to any stream, in little memory, and leave nothing behind."""

import re
import tempfile
import tracemalloc
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from vstorage_core import Exporter, Progress, Storage
from vstorage_core.testing.machine import (
    OpenStorage,
    PluginFixtures,
    Sample,
    accessors_of,
    changes_since,
    fill,
    rows_of,
    use,
)
from vstorage_core.testing.transfer import Sink, check_declaration, check_progress, files_below, only

Export = Callable[..., Sink]
_LARGE_ROWS, _LARGE_BYTES = 160, 100_000


class ExporterContract(PluginFixtures):
    """The contract of every exporter."""

    @pytest.fixture
    def exporter_name(self, new_storage: OpenStorage) -> str:
        """Which exporter of the plugin; needed where it has several. With `params` the contract is run for each."""
        return only(list(new_storage().exporters), "exporter_name")

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """The options to export with."""
        return {}

    @pytest.fixture
    def exporter(self, new_storage: OpenStorage, exporter_name: str) -> Exporter:
        """The exporter."""
        return new_storage().exporters[exporter_name]

    @pytest.fixture
    def export(self, exporter_name: str, options: Mapping[str, Any]) -> Export:
        """Exports a storage to a stream, and gives that."""

        def export_(storage: Storage, sink: Sink | None = None, **arguments: Any) -> Sink:
            sink = sink or Sink()
            storage.export(exporter_name, cast(BinaryIO, sink), **arguments, **options)
            return sink

        return export_

    def without_time(self, content: bytes) -> object:
        """What of a file depends on the database alone: override it where a file tells when it was made."""
        return content

    def test_its_declaration_fits_the_command_line_and_the_web(self, exporter: Exporter) -> None:
        check_declaration(exporter.name, exporter.filename, exporter.summary, exporter.options)
        assert "." in exporter.filename, "a file without a suffix opens in no program"
        assert re.fullmatch(r"[a-z]+/[a-z0-9][a-z0-9.+-]*(; ?charset=[\w-]+)?", exporter.media_type)

    def test_it_writes_an_empty_database_and_odd_values(self, open_machine: OpenStorage, export: Export) -> None:
        storage = open_machine()
        export(storage)
        fill(storage)
        before = rows_of(storage)
        export(storage)
        assert changes_since(before, storage) == {}, "an export changes nothing"

    def test_it_leaves_the_stream_open(self, machine: Storage, export: Export) -> None:
        sink = Sink()
        export(machine, sink)
        assert not sink.closed, "the stream belongs to the caller"

    def test_two_exports_of_one_state_are_equal(self, machine: Storage, export: Export) -> None:
        one, other = (self.without_time(bytes(export(machine).content)) for _ in range(2))
        assert one == other, "override without_time if only the time differs"

    def test_it_shows_one_moment(self, machine: Storage, export: Export) -> None:
        before = export(machine)
        during = export(machine, Sink(on_first_write=lambda: use(machine)))
        assert self.without_time(bytes(during.content)) == self.without_time(bytes(before.content)), (
            "what is written during the export must not be seen; read in one storage.snapshot()"
        )

    def test_it_needs_little_memory(self, open_machine: OpenStorage, export: Export) -> None:
        storage = open_machine()
        samples = accessors_of(storage)[2]
        samples.audited = False
        samples.insert_many([Sample(raw=bytes(_LARGE_BYTES)) for _ in range(_LARGE_ROWS)])
        tracemalloc.start()
        try:
            export(storage, Sink(keep=False))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        stored = _LARGE_ROWS * _LARGE_BYTES
        assert peak < stored / 2, f"{peak:,} bytes for {stored:,} bytes of data; write to the stream as you read"

    def test_what_the_stream_raises_reaches_the_caller_and_nothing_stays(
        self, machine: Storage, export: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = Sink()
        export(machine, whole)
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        files = files_below(tmp_path)
        full = Sink(room=whole.size // 2)
        with pytest.raises(Exception) as caught:  # noqa: PT011 (which one is compared below)
            export(machine, full)
        assert caught.value is full.failure, "the caller must get the very exception of the stream"
        assert files_below(tmp_path) == files, "files stay behind"
        use(machine)
        export(machine)

    def test_progress_only_goes_on(self, machine: Storage, export: Export) -> None:
        seen: list[Progress] = []
        export(machine, progress=seen.append)
        check_progress(seen)
