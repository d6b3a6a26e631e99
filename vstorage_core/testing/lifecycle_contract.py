"""What a plugin must leave alone: whatever its hooks do, writes stay all or nothing, and are audited as they are."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from sqlmodel import SQLModel, col, select

from vstorage_core import AuditLog, ModelAccessor, Storage, hookimpl
from vstorage_core.testing.machine import (
    OpenStorage,
    Part,
    PluginFixtures,
    accessors_of,
    changes_since,
    problems_in,
    rows_of,
)

EVENTS = tuple(
    f"{when}_{operation}" for operation in ("insert", "update", "delete", "restore") for when in ("before", "after")
)


class Refusal(Exception):
    """What the other plugin raises."""


class Neighbour:
    """Another plugin on the same machine, that raises `refusal` at `event`.

    Attributes:
        heard: Its events, in order.
    """

    def __init__(self) -> None:
        self.event: str | None = None
        self.refusal = Refusal("not now")
        self.heard: list[str] = []

    def hear(self, event: str) -> None:
        self.heard.append(event)
        if event == self.event:
            raise self.refusal


def _hearing(event: str) -> Callable[[Neighbour], None]:
    return hookimpl(lambda self: self.hear(event))


for _event in (*EVENTS, "after_commit"):
    setattr(Neighbour, f"vstorage_{_event}", _hearing(_event))


class LifecycleContract(PluginFixtures):
    """The contract of every plugin that hooks into writes.

    A plugin that acts on certain records only gets them from `accessor`, `new_record` and `change`; one that refuses
    some, `refused_record`.

    Attributes:
        refusals: What it may raise to refuse a record.
    """

    refusals: tuple[type[Exception], ...] = (ValueError, PermissionError)

    def new_record(self, number: int) -> SQLModel:
        """A record that it allows, another one for each number."""
        return Part(name=f"part {number}")

    def change(self, record: Any) -> None:
        """Change the record in a way that it allows."""
        record.name += " of old"

    def refused_record(self) -> SQLModel | None:
        """A record that it refuses; None: it refuses none."""
        return None

    @pytest.fixture
    def neighbour(self) -> Neighbour:
        """The other plugin."""
        return Neighbour()

    @pytest.fixture
    def storage(self, open_machine: OpenStorage, neighbour: Neighbour) -> Storage:
        """A started storage with both plugins."""
        storage = open_machine(neighbour)
        storage.start()
        return storage

    @pytest.fixture
    def accessor(self, storage: Storage) -> ModelAccessor[Any]:
        """Of the records; soft-deleted, for `restore` to be tried too."""
        return accessors_of(storage)[1]

    def _steps(self, accessor: ModelAccessor[Any]) -> dict[str, Callable[[], object]]:
        """Every way to write, by the event that it ends in."""
        known = accessor.insert(self.new_record(1))
        key = getattr(known, accessor.record.key)

        def save() -> None:
            self.change(known)
            accessor.save(known)

        steps: dict[str, Callable[[], object]] = {
            "insert": lambda: accessor.insert_many([self.new_record(2), self.new_record(3)]),
            "update": save,
            "delete": lambda: accessor.delete(key),
        }
        if accessor.has_soft_delete:
            steps["restore"] = lambda: accessor.restore(key)
        return steps

    def test_every_write_is_done_and_audited_as_it_is_stored(
        self, storage: Storage, accessor: ModelAccessor[Any], neighbour: Neighbour, caplog: pytest.LogCaptureFixture
    ) -> None:
        steps = self._steps(accessor)
        for operation, step in steps.items():
            neighbour.heard.clear()
            step()
            missing = {f"before_{operation}", f"after_{operation}", "after_commit"} - set(neighbour.heard)
            assert missing == set(), "other plugins do not hear of it"
        storage.replaced()
        assert problems_in(caplog) == [], "what it does after a commit fails"
        with storage.use_session() as session:
            trail = session.exec(
                select(AuditLog).where(AuditLog.component == accessor.component).order_by(col(AuditLog.id))
            ).all()
        assert {row.operation for row in trail} >= {"create", "update"}
        for key in {row.record_id for row in trail}:
            own = [row for row in trail if row.record_id == key]
            for earlier, later in pairwise(own):
                assert later.before == earlier.after, "a gap in the audit trail: it wrote past it"
            stored = accessor.get(key, include_deleted=True)
            now = stored and json.loads(accessor.record.snapshot(accessor.record.values_of(stored)))
            assert now == own[-1].after, "the last row of the audit trail is not what is stored"

    def test_nothing_of_a_transaction_stays_that_is_rolled_back(
        self, storage: Storage, accessor: ModelAccessor[Any], neighbour: Neighbour
    ) -> None:
        before = rows_of(storage)

        def write_and_fail() -> None:
            with storage.transaction():
                for step in self._steps(accessor).values():
                    step()
                raise neighbour.refusal

        with pytest.raises(Refusal):
            write_and_fail()
        assert changes_since(before, storage) == {}, "it commits, or writes past the transaction"

    @pytest.mark.parametrize("event", EVENTS)
    def test_what_another_plugin_raises_undoes_the_write(
        self, event: str, storage: Storage, accessor: ModelAccessor[Any], neighbour: Neighbour
    ) -> None:
        for operation, step in self._steps(accessor).items():
            if not event.endswith(operation):
                step()
                continue
            before, neighbour.event = rows_of(storage), event
            with pytest.raises(Refusal) as caught:
                step()
            assert caught.value is neighbour.refusal, "the caller must get the very exception"
            assert changes_since(before, storage) == {}
            return
        pytest.skip("the records are not soft-deleted")

    @pytest.mark.parametrize("way", ["insert", "insert_many", "save", "in a transaction"])
    def test_a_record_that_it_refuses_leaves_no_trace(
        self, way: str, storage: Storage, accessor: ModelAccessor[Any]
    ) -> None:
        refused = self.refused_record()
        if refused is None:
            pytest.skip("it refuses no record")
        before = rows_of(storage)
        if way == "in a transaction":
            with storage.transaction():
                accessor.insert(self.new_record(1))
                with pytest.raises(self.refusals):
                    accessor.insert(refused)
            assert accessor.count() == 1, "the rest of the transaction stays"
            return
        write = getattr(accessor, way)
        with pytest.raises(self.refusals):
            write([self.new_record(1), refused] if way == "insert_many" else refused)
        assert changes_since(before, storage) == {}
