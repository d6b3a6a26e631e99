"""The kit for plugin authors: every test of every contract fails on a plugin that breaks it, and says why."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from run_readme import blocks_of

from vstorage_core import testing

BROKEN = Path(__file__).with_name("broken_plugins.py")

# What fails for the broken plugins, and with which words; all else passes.
FAILURES = {
    "TestForgetful": {"test_it_loads_and_implements_a_hook": "implements no hook; is @hookimpl missing"},
    "TestLeaky": {
        "test_it_is_listed_with_its_distribution_and_version": "leaky must require vstorage-core",
        "test_it_starts_and_shuts_down_twice": "threads that its shutdown does not end",
        "test_two_storages_share_nothing": "kept in the extensions of two storages at once",
        "test_it_lets_go_of_a_storage_that_is_closed": "what belongs to a storage stands in storage.extensions",
        "test_its_settings_refuse_what_they_do_not_know": "a misspelled setting would do nothing",
        "test_a_database_that_was_used_with_it_opens_without_it": "locked",
    },
    "TestClumsy": {
        "test_its_declaration_fits_the_command_line_and_the_web": "'Odd Export' is no name for a command line",
        "test_it_writes_an_empty_database_and_odd_values": "an export changes nothing",
        "test_it_leaves_the_stream_open": "the stream belongs to the caller",
        "test_two_exports_of_one_state_are_equal": "override without_time if only the time differs",
        "test_it_shows_one_moment": "what is written during the export must not be seen",
        "test_it_needs_little_memory": "write to the stream as you read",
        "test_what_the_stream_raises_reaches_the_caller_and_nothing_stays": "the very exception of the stream",
        "test_progress_only_goes_on": "goes back: Progress(label='tables', done=2, total=3)",
    },
    "TestTorn": {"test_it_shows_one_moment": "read in one storage.snapshot()"},
    "TestStamped": {
        "test_two_exports_of_one_state_are_equal": "override without_time if only the time differs",
        "test_it_shows_one_moment": "what is written during the export must not be seen",
    },
    "TestTrusting": {
        "test_its_declaration_fits_the_command_line_and_the_web": "not described",
        "test_what_was_exported_comes_back": "rows of kit_part",
        "test_it_takes_a_stream_as_uploads_are_and_leaves_it_open": "the stream belongs to the caller",
        "test_its_report_can_be_sent_and_names_its_values": "tells nobody what happened",
        "test_the_audit_trail_says_who_imported": "{'the importer'} == {'field engineer'}",
        "test_a_dry_run_changes_nothing": "kit_station",
        "test_a_wrong_or_incomplete_file_is_refused_and_changes_nothing": "nothing is imported, where InvalidInput",
        "test_a_stream_that_fails_changes_nothing": "files stay behind",
        "test_progress_only_goes_on": "goes past its end: Progress(label='rows', done=2, total=1)",
    },
    "TestHasty": {
        "test_a_wrong_or_incomplete_file_is_refused_and_changes_nothing": "nothing is refused, but leaves something",
        "test_a_stream_that_fails_changes_nothing": "first row",
    },
    "TestServing": {
        "test_importing_it_loads_no_web_framework": "import it inside vstorage_register_routers",
        "test_every_route_is_documented_under_an_id_of_its_own": "GET /{component}/",
        "test_it_hides_no_route_of_the_web_api": "paths of vstorage_rest that this plugin answers first",
        "test_no_request_makes_it_fail": "answered with 500",
        "test_outsiders_stay_out_of_db": "open to everybody on the network",
    },
    "TestMeddling": {
        "test_every_write_is_done_and_audited_as_it_is_stored": "the printer is gone",
        "test_what_another_plugin_raises_undoes_the_write[before_delete]": "DID NOT RAISE",
        **{
            f"test_a_record_that_it_refuses_leaves_no_trace[{way}]": "assert 'refused' != 'refused'"
            for way in ("insert", "insert_many", "save", "in a transaction")
        },
    },
    "TestCommitting": {
        "test_every_write_is_done_and_audited_as_it_is_stored": "session.commit() here would end the transaction",
        "test_nothing_of_a_transaction_stays_that_is_rolled_back": "session.commit() here would end the transaction",
        **{
            f"test_what_another_plugin_raises_undoes_the_write[{when}_{operation}]": "session.commit() here would end"
            for operation in ("insert", "update", "delete", "restore")
            for when in ("before", "after")
        },
    },
    "TestWritingPast": {"test_every_write_is_done_and_audited_as_it_is_stored": "it wrote past it"},
}


@pytest.fixture(scope="module")
def failures(tmp_path_factory) -> dict[str, dict[str, str]]:
    """What pytest says about each failing test, by class; run as a stranger would, with no conftest and no settings."""
    folder = tmp_path_factory.mktemp("broken")
    shutil.copy(BROKEN, folder)
    info = folder / "leaky-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: leaky\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[vstorage.plugins]\nleaky = broken_plugins:leaky\n")
    only = [f"{BROKEN.name}::{name}" for name in FAILURES if name != "TestForgetful"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--junitxml=report.xml",
         f"{BROKEN.name}::TestForgetful::test_it_loads_and_implements_a_hook", *only],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    found: dict[str, dict[str, str]] = {}
    for case in ElementTree.parse(folder / "report.xml").iter("testcase"):
        for failure in [*case.iter("failure"), *case.iter("error")]:
            found.setdefault(case.attrib["classname"].split(".")[-1], {})[case.attrib["name"]] = failure.text or ""
    return found


def test_just_what_a_plugin_breaks_fails_and_in_words_that_help(failures):
    assert {name: set(tests) for name, tests in failures.items()} == {name: set(FAILURES[name]) for name in FAILURES}
    wrong = {
        (name, test): failures[name][test]
        for name, tests in FAILURES.items()
        for test, words in tests.items()
        if words not in failures[name][test]
    }
    assert wrong == {}


def test_each_test_of_each_contract_fails_on_some_plugin():
    asked = {test for name in testing.__all__ for test in dir(getattr(testing, name)) if test.startswith("test_")}
    assert {test.partition("[")[0] for tests in FAILURES.values() for test in tests} == asked


def test_the_tables_of_the_kit_are_in_no_other_database(sqlite_storage):
    importlib.import_module("vstorage_core.testing.machine")
    assert [table.name for table in sqlite_storage.tables() if table.name.startswith("kit_")] == []


def test_the_test_file_in_the_documentation_is_the_one_of_the_example():
    root = BROKEN.parents[1]
    blocks = [block.code for block in blocks_of(root / "docs" / "plugins.md") if "Contract" in block.code]
    example = root / "examples" / "vstorage_hello" / "tests" / "test_contracts.py"
    assert blocks == [example.read_text(encoding="utf-8").partition("\n\n")[2]]
