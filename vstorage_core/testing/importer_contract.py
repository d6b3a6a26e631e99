"""What every importer must do: take a file back, all or nothing, and say who did it."""

import io
import json
import tempfile
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from pydantic import BaseModel
from sqlmodel import col, select

from vstorage_core import AuditLog, Importer, InvalidInput, Progress, Storage, StorageError
from vstorage_core.audit import AUDIT_TABLE
from vstorage_core.testing.machine import OpenStorage, PluginFixtures, changes_since, rows_of, use
from vstorage_core.testing.transfer import FailingSource, Sink, check_declaration, check_progress, files_below, only

Import = Callable[..., BaseModel]
GARBAGE = {
    "nothing": b"",
    "text": b"This is no file that anybody could import.\n",
    "zeros": bytes(70_000),
    "binary": bytes(range(256)) * 300,
    "zip": b"PK\x03\x04" + bytes(500),
    "sqlite": b"SQLite format 3\x00" + bytes(8000),
    "json": b'{"tables": [{"name": null}]}\n[1, 2',
}


class ImporterContract(PluginFixtures):
    """The contract of every importer."""

    @pytest.fixture
    def importer_name(self, new_storage: OpenStorage) -> str:
        """Which importer of the plugin; needed where it has several. With `params` the contract is run for each."""
        return only(list(new_storage().importers), "importer_name")

    @pytest.fixture
    def exporter_name(self, new_storage: OpenStorage, importer_name: str) -> str | None:
        """The exporter whose files it takes back; None: there is none, and `file` is a fixture of your own."""
        names = list(new_storage().exporters)
        return importer_name if importer_name in names else only(names, "exporter_name")

    @pytest.fixture
    def options(self) -> Mapping[str, Any]:
        """The options to import with."""
        return {}

    @pytest.fixture
    def file(self, machine: Storage, exporter_name: str) -> bytes:
        """A file that can be imported into a new machine."""
        sink = Sink()
        machine.export(exporter_name, cast(BinaryIO, sink))
        return bytes(sink.content)

    @pytest.fixture
    def import_(self, importer_name: str, options: Mapping[str, Any]) -> Import:
        """Imports bytes or a stream into a storage; returns the report."""

        def import_(storage: Storage, source: bytes | BinaryIO, **arguments: Any) -> BaseModel:
            stream = io.BytesIO(source) if isinstance(source, bytes) else source
            return storage.import_(importer_name, stream, **{"actor": "kit", **options, **arguments})

        return import_

    @pytest.fixture
    def target(self, open_machine: OpenStorage) -> Storage:
        """A machine with empty tables, to import into."""
        return open_machine()

    @pytest.fixture
    def importer(self, new_storage: OpenStorage, importer_name: str) -> Importer:
        """The importer."""
        return new_storage().importers[importer_name]

    def test_its_declaration_fits_the_command_line_and_the_web(self, importer: Importer) -> None:
        check_declaration(importer.name, importer.path, importer.summary, importer.options)

    def test_what_was_exported_comes_back(
        self, machine: Storage, exporter_name: str | None, file: bytes, target: Storage, import_: Import
    ) -> None:
        if exporter_name is None:
            pytest.skip("no exporter makes such files")
        import_(target, file)
        before, after = rows_of(machine), rows_of(target)
        for table in sorted(before.keys() - {AUDIT_TABLE.name}):
            assert after[table] == before[table], f"rows of {table}"

    def test_it_takes_a_stream_as_uploads_are_and_leaves_it_open(
        self, file: bytes, target: Storage, import_: Import
    ) -> None:
        # Not `seekable` on Python 3.10, although it can seek.
        with tempfile.SpooledTemporaryFile(max_size=len(file) + 1) as upload:
            upload.write(file)
            upload.seek(0)
            import_(target, upload)
            assert not upload.closed, "the stream belongs to the caller"

    def test_its_report_can_be_sent_and_names_its_values(self, file: bytes, target: Storage, import_: Import) -> None:
        report = import_(target, file)
        assert isinstance(report, BaseModel)
        assert json.loads(report.model_dump_json()), "a report without a value tells nobody what happened"

    def test_the_audit_trail_says_who_imported(self, file: bytes, target: Storage, import_: Import) -> None:
        started = datetime.now(timezone.utc)
        import_(target, file, actor="field engineer")
        with target.use_session() as session:
            actors = {row.actor for row in session.exec(select(AuditLog).where(col(AuditLog.timestamp) >= started))}
        assert actors == {"field engineer"}

    def test_a_dry_run_changes_nothing(self, importer: Importer, file: bytes, target: Storage, import_: Import) -> None:
        if "dry_run" not in importer.options.model_fields:
            pytest.skip("it has no option dry_run")
        use(target)
        before = rows_of(target)
        import_(target, file, dry_run=True)
        assert changes_since(before, target) == {}

    def test_a_wrong_or_incomplete_file_is_refused_and_changes_nothing(
        self, file: bytes, machine: Storage, import_: Import
    ) -> None:
        parts = {"half of a file": file[: len(file) // 2], "nine tenths of a file": file[: len(file) * 9 // 10]}
        before = rows_of(machine)
        for kind, content in {**GARBAGE, **parts}.items():
            message = ""
            try:
                import_(machine, content)
                pytest.fail(f"{kind} is imported, where InvalidInput or ImportRefused is to be raised")
            except InvalidInput as refusal:
                message = str(refusal)
            assert len(message) > 10, f"{kind}: the message must say what is wrong with the file"
            assert changes_since(before, machine) == {}, f"{kind} is refused, but leaves something behind"

    def test_a_stream_that_fails_changes_nothing(
        self, file: bytes, machine: Storage, import_: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
        (tmp_path / "temporary").mkdir()
        before = rows_of(machine)
        with pytest.raises((OSError, StorageError)):
            import_(machine, cast(BinaryIO, FailingSource(file)))
        assert changes_since(before, machine) == {}
        assert files_below(tmp_path / "temporary") == set(), "files stay behind"

    def test_progress_only_goes_on(self, file: bytes, target: Storage, import_: Import) -> None:
        seen: list[Progress] = []
        import_(target, file, progress=seen.append)
        check_progress(seen)
