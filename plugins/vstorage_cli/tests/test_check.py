"""`vstorage check`."""

import re
import sqlite3

import pytest

DATABASE = ("--url", "sqlite:///machine.db")
MODELS = (*DATABASE, "--app", "machine")


@pytest.fixture
def execute(folder):
    """Runs SQL on the database of the machine."""

    def execute_(*statements):
        database = sqlite3.connect(folder / "machine.db")
        for statement in statements:
            database.execute(statement)
        database.commit()
        database.close()

    return execute_


def test_a_database_that_is_well_exits_with_0(run, folder):
    done = run("check", *MODELS)
    database = re.sub(r"\d+", "0", done.stdout.splitlines()[1])
    assert database == "database: ok (database_bytes: 0, wal_bytes: 0, free_disk_bytes: 0)"
    assert (done.returncode, done.stdout.splitlines()) == (
        0,
        [
            f"sqlite:///{folder}/machine.db",
            done.stdout.splitlines()[1],
            "printer: ok (pages_left: 12)",
            "file: ok",
            "foreign keys: ok",
            "tables: as the models expect them",
            "No problems found.",
        ],
    )


def test_without_models_it_says_what_it_did_not_compare(run):
    done = run("check", *DATABASE)
    assert done.returncode == 0
    assert "The tables were not compared with models; name them with --app." in done.stdout


def test_missing_tables_and_columns_are_problems(run, execute):
    execute("DROP TABLE recipe", "ALTER TABLE station RENAME COLUMN name TO title")
    done = run("check", *MODELS)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2:] == [
        "problem: tables: station lacks name",
        "problem: tables: recipe is missing",
    ]


def test_dangling_references_are_problems(run, execute):
    execute("UPDATE recipe SET station_id = 99")
    done = run("check", *DATABASE)
    assert done.returncode == 1
    assert "problem: foreign keys: 2 rows of recipe point to rows of station that do not exist\n" in done.stdout


def test_damage_in_the_file_is_a_problem(run, folder):
    database = sqlite3.connect(folder / "machine.db")
    (page,) = database.execute("SELECT rootpage FROM sqlite_master WHERE name = 'recipe'").fetchone()
    (size,) = database.execute("PRAGMA page_size").fetchone()
    database.close()
    with (folder / "machine.db").open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    done = run("check", *DATABASE)
    assert done.returncode == 1
    assert "problem: file: " in done.stdout
    assert "Traceback" not in done.stderr


def test_a_plugin_that_is_unwell_is_a_problem_without_a_traceback(run):
    ill = run("check", *DATABASE, ACME="ill")
    assert (ill.returncode, "problem: printer: the printer is ill" in ill.stdout) == (1, True)
    crashed = run("check", *DATABASE, ACME="crash")
    assert crashed.returncode == 1
    assert "problem: printer: failed with ZeroDivisionError; see the log" in crashed.stdout
    assert "ZeroDivisionError: secret" in crashed.stderr
    assert "Traceback" not in crashed.stderr


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("sqlite:///nothing.db", "nothing.db: there is no such file"),
        ("sqlite:///machine.py", "machine.py: the file is not an SQLite database"),
        ("postgresql://ana:secret@127.0.0.1:1/machine", "the database cannot be reached ("),
        ("mysql://ana:secret@127.0.0.1:1/machine", "the database server cannot do this now ("),
    ],
)
def test_a_database_that_cannot_be_used_exits_with_3(invoke, folder, url, sentence):
    before = sorted(folder.iterdir())
    done = invoke("check", "--url", url)
    assert done.exit_code == 3
    assert sentence in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("url", ["nonsense", "oracle://host/machine", "sqlite:////nowhere/machine.db"])
def test_a_url_that_cannot_work_exits_with_2(invoke, url):
    done = invoke("check", "--url", url)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_a_server_is_compared_with_the_models(run, make_database, open_storage, engine):
    url = make_database(engine)
    open_storage(url)
    done = run("check", "--url", url, "--app", "machine")
    assert done.returncode == 1
    assert done.stdout.splitlines()[-2:] == [
        "problem: tables: station is missing",
        "problem: tables: recipe is missing",
    ]
    assert "file:" not in done.stdout
