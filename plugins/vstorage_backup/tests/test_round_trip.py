"""One file between all engines: what an edge device backs up restores on a server, and back."""

import itertools
import subprocess
import sys
import threading
import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal

import pytest
from models import Color, Device, Member, Sample, Team, Ticket, User
from sqlalchemy import event

from vstorage_core import ModelAccessor


def fill(storage):
    ModelAccessor(Sample, "samples", storage=storage).insert_many(
        [
            Sample(moment=datetime(2026, 1, 1, tzinfo=timezone.utc)),
            Sample(
                text="é😀 \"quoted\" 'and' \\ \n\t ​",
                number=2**63 - 1,
                ratio=0.1,
                flag=True,
                price=Decimal("9999999999.99"),
                moment=datetime(2026, 2, 28, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=-5))),
                day=date(2024, 2, 29),
                clock=time(23, 59, 59, 123456),
                duration=timedelta(days=-3, seconds=5, microseconds=7),
                token=uuid.UUID("00000000-0000-4000-8000-0000000000ff"),
                color=Color.BLUE,
                raw=bytes(range(256)),
                settings={"z": [1, 2.5, None, True, "ü", {"deep": []}], "a": 2**60, "e": 1e-300},
            ),
            Sample(number=-(2**63), ratio=-1.7976931348623157e308, price=Decimal("-0.01"), raw=b"", settings={}),
            Sample(ratio=5e-324, moment=datetime(1, 1, 1, tzinfo=timezone.utc), day=date(1, 1, 1), clock=time()),
        ]
    )
    users = ModelAccessor(User, "users", storage=storage)
    ana, _ = users.insert_many([User(name="ana", email="ana@x", age=3), User(name="Ben", email="ben@x")])
    users.delete(ana.id)
    ModelAccessor(Device, "devices", storage=storage).insert_many([Device(serial="Ä-1"), Device(serial="a", label="x")])
    ModelAccessor(Ticket, "tickets", storage=storage).insert(Ticket(key=uuid.UUID(int=7), title="t"))
    team = ModelAccessor(Team, "teams", storage=storage).insert(Team(name="team"))
    ModelAccessor(Member, "members", storage=storage).insert_many([Member(name="m", team_id=team.id), Member(name="n")])


@pytest.mark.parametrize(
    "route", [["sqlite", "postgresql", "mariadb", "sqlite"], ["memory", "mariadb", "postgresql", "memory"]]
)
def test_a_backup_goes_round_all_engines_unchanged(route, make_database, open_machine, content, trail, tmp_path):
    machines = [open_machine(make_database(engine)) for engine in route]
    fill(machines[0])
    for number, (source, target) in enumerate(itertools.pairwise(machines)):
        path = tmp_path / f"{number}.sqlite"
        source.export("backup", path)
        target.import_("restore", path)
        assert content(target) == content(machines[0])
        events = trail(machines[0])
        assert trail(target)[: len(events)] == events
        sample = ModelAccessor(Sample, "samples", storage=target).insert(Sample())
        assert sample.id == 5 + number
        ModelAccessor(Sample, "samples", storage=target, audited=False).delete(sample.id)


WITHOUT_MODELS = """
import sys, importlib.metadata
from sqlmodel import SQLModel
from vstorage_core import Storage

_, what, url, path = sys.argv
plugin = importlib.metadata.EntryPoint(name="backup", value="vstorage_backup.plugin", group="vstorage.plugins")
with Storage(url, entry_points=[plugin]) as storage:
    with storage.snapshot() as connection:
        SQLModel.metadata.reflect(connection)
    storage.export("backup", path) if what == "export" else storage.import_("restore", path)
"""


@pytest.mark.parametrize(
    ("source", "target"), [("postgresql", "mariadb"), ("mariadb", "sqlite"), ("sqlite", "postgresql")]
)
def test_a_program_that_does_not_know_the_models_moves_the_data_all_the_same(
    source, target, make_database, open_machine, content, trail, tmp_path
):
    machines = [open_machine(make_database(engine)) for engine in (source, target)]
    fill(machines[0])
    for what, machine in zip(["export", "import"], machines, strict=True):
        url = machine.engine.url.render_as_string(hide_password=False)
        subprocess.run([sys.executable, "-c", WITHOUT_MODELS, what, url, tmp_path / "backup.sqlite"], check=True)
    assert content(machines[1]) == content(machines[0])
    assert trail(machines[1])[:-1] == trail(machines[0])


@pytest.mark.parametrize("engine", ["postgresql", "mariadb"])
def test_readers_of_a_server_see_the_old_rows_until_the_restore_commits(engine, make_database, open_machine, tmp_path):
    machine = open_machine(make_database(engine))
    users = ModelAccessor(User, "users", storage=machine)
    users.insert(User(name="new", email="new@x"))
    machine.export("backup", tmp_path / "backup.sqlite")
    users.update(1, name="old")
    at_the_end, go_on = threading.Event(), threading.Event()

    @event.listens_for(machine.engine, "before_cursor_execute")
    def wait(_connection, _cursor, statement, *_):
        if statement.startswith("INSERT INTO auditlog"):
            at_the_end.set()
            assert go_on.wait(30)

    restoring = threading.Thread(target=machine.import_, args=["restore", tmp_path / "backup.sqlite"])
    restoring.start()
    try:
        assert at_the_end.wait(30)
        assert users.find()[0].name == "old"
    finally:
        go_on.set()
        restoring.join()
    assert users.find()[0].name == "new"


def test_a_file_restored_twice_gives_the_same_backup(machine, content, tmp_path):
    fill(machine)
    first, second = tmp_path / "first.sqlite", tmp_path / "second.sqlite"
    machine.export("backup", first)
    machine.import_("restore", first)
    stored = content(machine)
    machine.export("backup", second)
    machine.import_("restore", second)
    assert content(machine) == stored
