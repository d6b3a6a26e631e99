"""What a restore keeps of what it replaces."""

import stat
from functools import partial
from pathlib import Path

import pytest
from models import User

from vstorage_backup.export import copy_pages
from vstorage_backup.safety import SafetyCopy
from vstorage_backup.settings import backup_settings, places_of
from vstorage_core import ModelAccessor


@pytest.mark.parametrize("engine", ["memory", "postgresql", "mariadb"])
def test_a_safety_copy_of_any_database_is_made_where_there_is_a_folder_for_it(
    engine, make_database, open_machine, backup, content, tmp_path
):
    machine = open_machine(make_database(engine), folder=tmp_path / "safe")
    machine.export("backup", backup)
    ModelAccessor(User, "users", storage=machine).insert(User(name="ana", email="ana@x"))
    replaced = content(machine)
    report = machine.import_("restore", backup)
    machine.import_("restore", tmp_path / "safe" / report.safety_copy)
    assert content(machine) == replaced


def test_without_a_folder_there_is_no_safety_copy_and_the_report_says_why(make_database, open_machine, backup):
    machine = open_machine(make_database("memory"))
    machine.export("backup", backup)
    report = machine.import_("restore", backup)
    assert report.safety_copy is None
    assert report.no_safety_copy_because == "there is no folder for it; name one in the setting backup.folder"


def test_only_the_last_safety_copies_are_kept(make_database, open_machine, backup, tmp_path):
    machine = open_machine(make_database("sqlite"), keep_replaced=2)
    machine.export("backup", backup)
    names = [machine.import_("restore", backup).safety_copy for _ in range(4)]
    assert sorted(path.name for path in tmp_path.glob("*-backups/*")) == names[-2:]


def test_safety_copies_can_be_switched_off(make_database, open_machine, backup, tmp_path):
    machine = open_machine(make_database("sqlite"), keep_replaced=0)
    machine.export("backup", backup)
    assert machine.import_("restore", backup).no_safety_copy_because == "the setting backup.keep_replaced is 0"
    assert list(tmp_path.glob("*-backups")) == []


def test_a_safety_copy_may_be_read_by_those_who_may_read_the_database(machine, backup, tmp_path):
    database = Path(machine.engine.url.database)
    database.chmod(0o640)
    machine.export("backup", backup)
    machine.import_("restore", backup)
    assert stat.S_IMODE(next(tmp_path.glob("*-backups/*")).stat().st_mode) == 0o640


def test_a_second_try_that_fails_does_not_keep_the_safety_copy_of_the_first(machine, tmp_path):
    copy = partial(copy_pages, Path(machine.engine.url.database))
    with SafetyCopy(places_of(machine), backup_settings(machine)) as safety:
        safety.take(copy, machine.engine.dialect)
        safety.keep()
        safety.take(copy, machine.engine.dialect)
        assert len(list(tmp_path.glob("*-backups/*"))) == 1
    assert list(tmp_path.glob("*-backups/*")) == []
