"""`vstorage import`."""

import json
import os
import sqlite3

import pytest

DATABASE = ("--url", "sqlite:///machine.db")


@pytest.fixture
def file(folder):
    path = folder / "data.bin"
    path.write_bytes(b"12345")
    return path


def test_the_report_is_printed_for_people(invoke, file):
    done = invoke("import", "acme", "data.bin", *DATABASE)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "size          5",
        "first time    yes",
        "actor         ana",
        "actor source  login",
        "tables:",
        "           create  update",
        "  station       2      10",
        "  recipe        1       0",
        "notes:",
        "  line  text",
        r"     7  odd \x1b[31m name",
        "   123  x, y",
        "  7 changes:",
        "    before  after",
        "       1.5      -",
        "  7 file:",
        "    a,b",
        "    c,d",
        "problems      -",
    ]


def test_the_report_is_printed_as_json(invoke, file):
    report = json.loads(invoke("import", "acme", "data.bin", "--json", *DATABASE).stdout)
    assert (report["size"], report["tables"]["station"]) == (5, {"create": 2, "update": 10})


def test_a_pipe_is_as_good_as_a_file(run):
    assert json.loads(run("import", "acme", "-", "--json", *DATABASE, input="1234567").stdout)["size"] == 7


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_with_a_name_is_as_good_as_a_file(start, folder):
    os.mkfifo(folder / "pipe")
    with start("import", "acme", "pipe", "--json", *DATABASE, stdout=-1) as process:
        (folder / "pipe").write_bytes(b"1234567")
        assert json.loads(process.stdout.read())["size"] == 7


def test_a_redirected_file_is_as_good_as_a_named_one(start, file):
    with file.open("rb") as stdin, start("import", "acme", "-", "--json", *DATABASE, stdin=stdin, stdout=-1) as process:
        assert json.loads(process.stdout.read())["size"] == 5


def test_the_actor_is_named_or_else_who_is_logged_in(invoke, file):
    named = json.loads(invoke("import", "acme", "data.bin", "--json", "--actor", "Ben", *DATABASE).stdout)
    assert (named["actor"], named["actor_source"]) == ("Ben", "option")
    for blank in ("", " "):
        done = invoke("import", "acme", "data.bin", "-q", "--actor", blank, *DATABASE)
        assert (done.exit_code, done.stderr) == (1, "Error: the actor must be 1 to 255 printable characters\n")


def test_options_reach_the_importer(invoke, file):
    report = json.loads(invoke("import", "acme", "data.bin", "--mode", "upsert", "--json", *DATABASE).stdout)
    assert list(report["tables"]) == ["auditlog", "station", "recipe"]
    assert invoke("import", "acme", "data.bin", "--mode", "other", *DATABASE).exit_code == 2


def test_a_refused_file_exits_with_1_and_says_what_is_wrong(invoke, file):
    file.write_bytes(b"bad")
    done = invoke("import", "acme", "data.bin", "-q", *DATABASE)
    assert (done.exit_code, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert lines[:4] == [
        "Error: 30 rows cannot be imported",
        "Without --app no models are known, which some importers need.",
        "line  column  reason",
        "   1  name    too long",
    ]
    assert lines[-1] == "... and 10 more; --json prints all"


def test_a_refusal_does_not_blame_models_that_were_given(run, file):
    file.write_bytes(b"bad")
    done = run("import", "acme", "data.bin", "-q", "--app", "machine", *DATABASE)
    assert done.returncode == 1
    assert "--app" not in done.stderr


def test_a_refused_file_lists_all_details_as_json(invoke, file):
    file.write_bytes(b"bad")
    done = invoke("import", "acme", "data.bin", "--json", *DATABASE)
    assert done.exit_code == 1
    answer = json.loads(done.stdout)
    assert (answer["error"], len(answer["details"])) == ("30 rows cannot be imported", 30)


def test_a_missing_file_is_named(invoke):
    done = invoke("import", "acme", "nothing.bin", *DATABASE)
    assert done.exit_code == 2
    assert "Error: Invalid value for 'FILE|-': File 'nothing.bin' does not exist." in done.stderr


def test_a_missing_database_is_created_only_when_told_to(run, folder, file):
    new = ("--app", "machine", "--url", "sqlite:///new.db", "-q")
    done = run("import", "acme", "data.bin", *new)
    assert done.returncode == 3
    assert "/new.db: there is no such file; " in done.stderr
    assert not (folder / "new.db").exists()
    assert run("import", "acme", "data.bin", "--create", *new).returncode == 0
    with sqlite3.connect(folder / "new.db") as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    database.close()
    assert tables >= {"auditlog", "station", "recipe"}


def test_creating_a_database_needs_the_models(invoke, folder, file):
    done = invoke("import", "acme", "data.bin", "--create", "--url", "sqlite:///new.db")
    assert done.exit_code == 2
    assert "name your models with --app" in done.stderr
    assert not (folder / "new.db").exists()
