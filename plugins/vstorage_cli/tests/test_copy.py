"""`vstorage copy`: from one database to another, whatever engines they are on."""

import functools
import itertools
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import sqlalchemy

EXAMPLE = Path(__file__).parents[3] / "examples" / "machine.py"

# `filling` is examples/machine.py: not the `machine` of the other tests.
FILL = """
import sys, filling
from decimal import Decimal
from vstorage_core import Storage, acting_as

with Storage(sys.argv[1], entry_points=[]) as storage:
    storage.create_tables()
    stations, operators, recipes, counters = [accessor.bound_to(storage) for accessor in filling.accessors]
    with acting_as("ana", reason="ümläut 😀"):
        station = stations.insert(filling.Station(name="Filler", kind=filling.StationKind.FILLING))
        ben = operators.insert(filling.Operator(name="Ben", badge="B-04"))
        operators.delete(ben.id)
        counters.insert(filling.Counter(station_id=station.id, good=2**40))
        for start in range(0, int(sys.argv[2]), 1000):
            recipes.insert_many([
                filling.Recipe(name=f"Säft {n} 😀", station_id=station.id,
                               fill_volume_ml=n + Decimal("0.25"), speed_percent=n % 100 + 1,
                               approved_by_id=ben.id if n % 3 else None,
                               parameters={"n": n, "text": "é", "nozzles": [1, 2.5, None, True]})
                for n in range(start, start + 1000)
            ])
        recipes.update(7, speed_percent=3, parameters={})
        recipes.delete_many([1, 2])
        last = counters.insert(filling.Counter(station_id=stations.insert(
            filling.Station(name="Capper", kind=filling.StationKind.CAPPING)).id))
        counters.delete(last.id)
"""
# Per database all rows as the models see them, with the trail but for the notes about restores; and the next keys.
DESCRIBE = """
import hashlib, json, sys, filling
from sqlalchemy import select
from vstorage_core import AuditLog, Storage

described = []
for url in sys.argv[1:]:
    with Storage(url, entry_points=[]) as storage:
        told = {}
        with storage.snapshot() as connection:
            for table in storage.tables():
                query = select(table).order_by(*table.primary_key)
                if table.name == "auditlog":
                    query = query.where(table.c.operation != "replace")
                digest, count = hashlib.sha256(), 0
                for row in connection.execute(query.execution_options(yield_per=1000)):
                    digest.update(repr(tuple(row)).encode())
                    count += 1
                told[table.name] = [count, digest.hexdigest()]
            log = AuditLog.__table__
            restores = select(log.c.actor, log.c.actor_source).where(log.c.operation == "replace")
            told["restored by"] = connection.execute(restores).all()
        stations, operators, recipes, counters = [accessor.bound_to(storage) for accessor in filling.accessors]
        station = stations.insert(filling.Station(name="Labeller", kind=filling.StationKind.LABELLING))
        told["next keys"] = [station.id, operators.insert(filling.Operator(name="Cem", badge="C")).id,
                             counters.insert(filling.Counter(station_id=station.id)).id]
        described.append(told)
print(json.dumps(described, default=list))
"""


@pytest.fixture
def python(folder, environment):
    """Runs a script in the folder; gives what it prints."""
    shutil.copy(EXAMPLE, folder / "filling.py")

    def python_(script, *arguments):
        command = [sys.executable, "-c", script, *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return python_


def copy_round(run, python, make_database, tmp_path, rows):
    urls = [make_database(engine) for engine in ("sqlite", "postgresql", "mariadb")]
    urls.append(f"sqlite:///{tmp_path}/back.db")
    python(FILL, urls[0], rows)
    for source, target in itertools.pairwise(urls):
        done = run("copy", "--from", source, "--to", target, "--app", "filling", "--json", timeout_seconds=900)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["tables"]["recipe"] == {"rows_before": 0, "rows_after": rows, "rows_lost": 0}
    original, *copies = json.loads(python(DESCRIBE, *urls))
    assert (original["recipe"][0], original["auditlog"][0]) == (rows, rows + 10)
    # The second counter was deleted before the copy: its key is not given again.
    assert original["next keys"] == [3, 2, 3]
    for number, copied in enumerate(copies, start=1):
        assert copied == {**original, "restored by": [["ana", "login"]] * number}


def test_records_trail_and_keys_go_round_all_engines_unchanged(run, python, make_database, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    copy_round(functools.partial(run, TMPDIR=str(temporary)), python, make_database, tmp_path, 2_000)
    assert list(temporary.iterdir()) == []


@pytest.mark.soak
def test_a_hundred_thousand_records_go_round_all_engines_unchanged(run, python, make_database, tmp_path):
    copy_round(run, python, make_database, tmp_path, 100_000)


def names(url):
    engine = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        return connection.exec_driver_sql("SELECT name FROM station ORDER BY id").scalars().all()


def test_a_database_that_has_data_is_replaced_only_when_told_to(run, invoke, folder, make_database):
    urls = ("--from", "sqlite:///machine.db", "--to", make_database("postgresql"), "-q")
    tables_missing = invoke("copy", *urls)
    assert tables_missing.exit_code == 1
    assert "has no tables yet. Name your models with --app to create them." in tables_missing.stderr
    assert run("copy", *urls, "--app", "machine").returncode == 0
    with sqlite3.connect(folder / "machine.db") as database:
        database.execute("INSERT INTO station (name) VALUES ('Capper')")
    database.close()
    # Without models the tables are as each of the databases has them.
    refused = invoke("copy", *urls)
    assert refused.exit_code == 1
    assert "has data: " in refused.stderr
    assert "Replace it with --replace." in refused.stderr
    assert names(urls[3]) == ["Filler"]
    assert invoke("copy", *urls, "--replace").exit_code == 0
    assert names(urls[3]) == ["Filler", "Capper"]


@pytest.mark.parametrize("target", ["sqlite:///machine.db", "sqlite:///./machine.db", "sqlite:///link.db"])
def test_a_database_is_not_copied_onto_itself(invoke, folder, target):
    (folder / "link.db").symlink_to(folder / "machine.db")
    done = invoke("copy", "--from", "sqlite:///machine.db", "--to", target, "--replace")
    assert done.exit_code == 2
    assert "--from and --to are the same database." in done.stderr


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("postgresql://ana:s3cret@localhost/x", "postgres://ben@127.0.0.1:5432/x"),
        ("mysql://root@LOCALHOST:3306/x", "mariadb://127.0.0.1/x"),
    ],
)
def test_two_spellings_of_one_database_are_known(invoke, first, second):
    done = invoke("copy", "--from", first, "--to", second)
    assert done.exit_code == 2
    assert "are the same database" in done.stderr
    assert "s3cret" not in done.stderr


def test_a_source_that_is_missing_or_empty_creates_no_target(run, invoke, folder):
    missing = invoke("copy", "--from", "sqlite:///nothing.db", "--to", "sqlite:///new.db")
    assert (missing.exit_code, "nothing.db: there is no such file" in missing.stderr) == (3, True)
    (folder / "empty.db").touch()
    empty = run("copy", "--from", "sqlite:///empty.db", "--to", "sqlite:///new.db", "--app", "machine")
    assert (empty.returncode, "empty.db has no tables to copy" in empty.stderr) == (1, True)
    assert not (folder / "new.db").exists()


def test_without_the_backup_plugin_it_says_what_to_install(invoke):
    done = invoke(
        "copy", "--from", "sqlite:///machine.db", "--to", "sqlite:///new.db", VSTORAGE_DISABLED_PLUGINS="backup"
    )
    assert done.exit_code == 1
    assert done.stderr == "Error: copy needs the backup plugin: pip install 'vstorage-core[backup]'\n"
