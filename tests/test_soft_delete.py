"""Models with `deleted_at`: deleted records are hidden, kept, refused to writers, and come back by restore."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest
from models import Counter, User
from trail import history, trail

from vstorage_core import ConstraintViolation, ModelAccessor, RecordDeleted, Storage, StorageError


@pytest.fixture
def users(storage: Storage) -> ModelAccessor[User]:
    return ModelAccessor(User, "users", storage=storage)


@pytest.fixture
def ana(users: ModelAccessor[User]) -> User:
    return users.insert(User(name="Ana", email="ana@example.com"))


def test_a_deleted_record_is_hidden_but_kept(users, ana):
    started = datetime.now(timezone.utc)
    assert users.delete(ana.id)
    assert users.get(ana.id) is None
    assert users.all() == []
    deleted = users.get(ana.id, include_deleted=True)
    assert deleted.name == "Ana"
    assert started <= deleted.deleted_at <= datetime.now(timezone.utc)


def test_a_second_delete_finds_nothing_and_changes_nothing(storage, users, ana):
    users.delete(ana.id)
    moment = users.get(ana.id, include_deleted=True).deleted_at
    assert users.delete(ana.id) is False
    assert users.delete_many([ana.id, ana.id]) == 0
    assert users.get(ana.id, include_deleted=True).deleted_at == moment
    assert [row.operation for row in trail(storage)] == ["create", "soft_delete"]


@pytest.mark.parametrize("copy", ["the loaded instance", "an old instance", "a new instance"])
def test_saving_a_deleted_record_is_refused(storage, users, ana, copy):
    users.delete(ana.id)
    instance: Any = {
        "the loaded instance": lambda: users.get(ana.id, include_deleted=True),
        "an old instance": lambda: ana,
        "a new instance": lambda: User(id=ana.id, name="Ana", email="ana@example.com"),
    }[copy]()
    instance.name = "Anna"
    instance.deleted_at = None
    with pytest.raises(RecordDeleted, match=f"users {ana.id} is deleted; restore it before you change it"):
        users.save(instance)
    assert users.get(ana.id, include_deleted=True).name == "Ana"
    assert users.get(ana.id) is None
    assert [row.operation for row in trail(storage)] == ["create", "soft_delete"]


def test_updating_a_deleted_record_finds_none(storage, users, ana):
    users.delete(ana.id)
    assert users.update(ana.id, name="Anna") is None
    assert len(trail(storage)) == 2


def test_restore_makes_it_live_again_as_it_was(storage, users, ana):
    users.delete(ana.id)
    assert users.restore(ana.id, actor="ben")
    assert users.get(ana.id).model_dump() == {**ana.model_dump(), "deleted_at": None}
    last = trail(storage)[-1]
    assert (last.operation, last.actor, last.after["deleted_at"]) == ("restore", "ben", None)
    assert last.before == trail(storage)[1].after


def test_restoring_a_live_record_changes_nothing(storage, users, ana):
    ran: list[User] = []
    users.before_restore()(lambda instance: ran.append(instance))
    assert users.restore(ana.id)
    assert ran == []
    assert [row.operation for row in trail(storage)] == ["create"]


def test_restoring_what_is_not_there_is_false(users):
    assert users.restore(1) is False


def test_a_model_without_deleted_at_loses_its_records_for_good(storage):
    counters = ModelAccessor(Counter, "counters", storage=storage)
    counter = counters.insert(Counter())
    assert not counters.has_soft_delete
    assert counters.delete(counter.id)
    assert counters.get(counter.id, include_deleted=True) is None
    assert counters.restore(counter.id) is False
    assert history(storage) == [("counters", "create", counter.id), ("counters", "delete", counter.id)]


def test_a_deleted_record_still_holds_its_unique_values(users, ana):
    users.delete(ana.id)
    with pytest.raises(ConstraintViolation) as caught:
        users.insert(User(name="Second", email="ana@example.com"))
    assert caught.value.fields == ["email"]


def test_a_deleted_record_is_an_error_of_ours_that_is_not_a_bad_value():
    assert issubclass(RecordDeleted, StorageError)
    assert not issubclass(RecordDeleted, ValueError)


def test_hooks_run_on_delete_and_restore_with_the_record(users, ana):
    ran: list[tuple[str, bool]] = []
    for name in ("before_delete", "after_delete", "before_restore", "after_restore"):
        getattr(users, name)()(noting(ran, name))
    users.delete(ana.id)
    users.restore(ana.id)
    assert ran == [
        ("before_delete", True),
        ("after_delete", False),
        ("before_restore", False),
        ("after_restore", True),
    ]


def noting(ran: list[tuple[str, bool]], name: str) -> Any:
    return lambda instance: ran.append((name, instance.deleted_at is None))
