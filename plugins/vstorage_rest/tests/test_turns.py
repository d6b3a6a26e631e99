"""Requests that wait for their turn to write: they share a commit, and nothing else."""

import asyncio
import time
from collections import Counter as Tally
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from sqlalchemy import Column, ForeignKey, Integer
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel
from starlette.responses import Response

from vstorage_rest import turns

WRITERS = 12


class Racks(SQLModel, registry=registry()):
    """Tables of this module alone: MariaDB has no deferred constraints."""


class Shelf(Racks, table=True):
    id: int | None = Field(default=None, primary_key=True)


class Box(Racks, table=True):
    """Its shelf is looked for when the transaction commits."""

    id: int | None = Field(default=None, primary_key=True)
    shelf_id: int = Field(
        sa_column=Column(Integer, ForeignKey("shelf.id", deferrable=True, initially="DEFERRED"), nullable=False)
    )


@pytest.fixture
def components():
    return ["counters", "users"]


class Arrivals:
    """Middleware that notes the requests that have come."""

    def __init__(self, app, noted):
        self.app = app
        self.noted = noted

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http":
            self.noted.append(scope["path"])
        await self.app(scope, receive, send)


@pytest.fixture
def write_at_once():
    """Sends requests of 0, 1, 2, … that all wait while the test itself writes; gives the answers."""

    def run(machine, send, count=WRITERS):
        arrived = []
        machine.app.add_middleware(Arrivals, noted=arrived)
        with (
            machine.served() as address,
            httpx.Client(base_url=address, headers={"X-User": "ana"}, timeout=60) as client,
            ThreadPoolExecutor(count) as pool,
        ):
            with machine.storage.transaction():
                answers = [pool.submit(send, client, number) for number in range(count)]
                deadline = time.monotonic() + 30
                while len(arrived) < count and time.monotonic() < deadline:
                    time.sleep(0.01)
                # From there to where they wait is a moment.
                time.sleep(0.3)
            return [answer.result() for answer in answers]

    return run


def test_writes_that_wait_for_their_turn_are_committed_together(machine, write_at_once):
    commits = []
    machine.counters.after_commit()(commits.append)
    answers = write_at_once(machine, lambda client, number: client.post("/counters/", json={"value": number}))
    assert {answer.status_code for answer in answers} == {201}
    assert sorted(change.after["value"] for changes in commits for change in changes) == list(range(WRITERS))
    assert len(commits) < WRITERS


def test_each_is_answered_with_its_own_record_and_blamed_on_its_own_caller(machine, write_at_once):
    machine.counters.insert_many([machine.counters.model(value=0) for _ in range(WRITERS)])

    def send(client, number):
        headers = {"X-User": f"operator {number}", "X-Request-ID": f"request-{number}"}
        if number % 2:
            return client.post("/counters/", json={"value": number}, headers=headers)
        return client.put(f"/counters/{number + 1}", json={"value": 100 + number}, headers=headers)

    answers = write_at_once(machine, send)
    for number, answer in enumerate(answers):
        stored = machine.client.get(f"/counters/{answer.json()['id']}")
        assert stored.json() == answer.json()
        assert stored.headers["etag"] == answer.headers["etag"]
        assert answer.json()["value"] == (number if number % 2 else 100 + number)
        (row,) = machine.client.get("/db/audit", params={"actor": f"operator {number}"}).json()
        assert row["after"] == answer.json()
        assert (row["request_id"], row["actor_source"]) == (f"request-{number}", "header")


def test_what_is_refused_is_refused_alone(machine, write_at_once):
    def send(client, number):
        # Of each address there can be one.
        return client.post("/users/", json={"name": "Ana", "email": f"{number % 4}@example.com"})

    answers = write_at_once(machine, send)
    created = [answer.json() for answer in answers if answer.status_code == 201]
    assert Tally(answer.status_code for answer in answers) == {201: 4, 409: WRITERS - 4}
    assert sorted(user["email"] for user in created) == [f"{number}@example.com" for number in range(4)]
    assert {user.id for user in machine.users.all()} == {user["id"] for user in created}
    rows = machine.client.get("/db/audit", params={"component": "users"}).json()
    assert {row["record_id"] for row in rows} == {user["id"] for user in created}


def test_a_record_limit_is_exact_among_them(open_machine, make_database, write_at_once):
    machine = open_machine(make_database("sqlite"), max_records_per_model=5)
    answers = write_at_once(machine, lambda client, number: client.post("/counters/", json={"value": number}))
    assert Tally(answer.status_code for answer in answers) == {201: 5, 409: WRITERS - 5}
    assert machine.counters.count() == 5


def test_one_that_makes_the_commit_fail_takes_no_other_with_it(open_machine, make_database, write_at_once):
    machine = open_machine(make_database("sqlite"), models={"shelves": Shelf, "boxes": Box})
    machine.shelves.insert(Shelf(id=1))
    answers = write_at_once(machine, lambda client, number: client.post("/boxes/", json={"shelf_id": number % 2}))
    assert [answer.status_code for answer in answers] == [409, 201] * (WRITERS // 2)
    assert [box.shelf_id for box in machine.boxes.all()] == [1] * (WRITERS // 2)
    rows = machine.client.get("/db/audit", params={"component": "boxes"}).json()
    assert len(rows) == WRITERS // 2


def test_whom_a_hook_looks_at_has_a_transaction_of_its_own(machine, write_at_once):
    commits = []
    machine.counters.after_commit()(commits.append)
    machine.counters.before_insert()(lambda session, instance: None)
    answers = write_at_once(machine, lambda client, number: client.post("/counters/", json={"value": number}))
    assert {answer.status_code for answer in answers} == {201}
    assert [len(changes) for changes in commits] == [1] * WRITERS


def test_nothing_is_lost_when_the_storage_stays_busy(open_machine, make_database, write_at_once):
    machine = open_machine(make_database("sqlite"), config={"engine": {"timeout_seconds": 0.1}})
    answers = write_at_once(machine, lambda client, number: client.post("/counters/", json={"value": number}))
    acknowledged = [number for number, answer in enumerate(answers) if answer.status_code == 201]
    assert {answer.status_code for answer in answers} <= {201, 503}
    assert 503 in {answer.status_code for answer in answers}
    assert sorted(counter.value for counter in machine.counters.all()) == acknowledged


def test_a_request_that_is_given_up_before_its_turn_writes_nothing(machine, write_at_once):
    class Impatient:
        def __init__(self, app):
            self.app = app

        async def __call__(self, scope, receive, send):
            if scope["type"] != "http":
                await self.app(scope, receive, send)
                return
            try:
                await asyncio.wait_for(self.app(scope, receive, send), 0.1)
            except asyncio.TimeoutError:
                await Response(status_code=504)(scope, receive, send)

    machine.app.add_middleware(Impatient)
    answers = write_at_once(machine, lambda client, number: client.post("/counters/", json={"value": number}))
    assert {answer.status_code for answer in answers} == {504}
    # The one whose turn it was waits in a thread, which nobody can stop.
    assert machine.counters.count() <= 1


def test_where_no_thread_can_be_had_the_requests_fail_instead_of_waiting_for_ever(machine, monkeypatch):
    tried = []

    async def no_thread(_work):
        tried.append(1)
        raise RuntimeError("can't start new thread")

    async def wait():
        writes = (turns.take_turn(machine.storage, "writing", machine.counters.count, joins=True) for _ in range(3))
        return await asyncio.wait_for(asyncio.gather(*writes, return_exceptions=True), 10)

    # As Starlette's function does where the system gives no more threads.
    monkeypatch.setattr(turns, "run_in_threadpool", no_thread)
    assert [str(error) for error in asyncio.run(wait())] == ["can't start new thread"] * 3
    assert len(tried) == 1
    monkeypatch.undo()
    assert asyncio.run(turns.take_turn(machine.storage, "writing", machine.counters.count)) == 0
