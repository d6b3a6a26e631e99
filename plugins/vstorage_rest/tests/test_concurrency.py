"""Many clients at once, behind a real server."""

import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from vstorage_core import StorageBusy, TransactionConflict

CLIENTS = 32
ACTOR = {"X-User": "ana"}


@pytest.fixture
def components():
    return ["counters", "users", "devices"]


@pytest.fixture
def together():
    """Calls a function with 0, 1, 2, … from as many threads, all starting at once; gives the results."""

    def run(function, count=CLIENTS):
        barrier = threading.Barrier(count)

        def start(number):
            barrier.wait()
            return function(number)

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(start, range(count)))

    return run


def create_up_to_the_limit(machine, together, rounds):
    """Lets 64 clients create at once where 50 records may be, over and over; gives the statuses of each round."""
    # One pool of connections: 64 of them would take longer to make than the test.
    with machine.served() as address, httpx.Client(base_url=address, headers=ACTOR, timeout=60) as pool:

        def create(number):
            return pool.post("/counters/", json={"value": number}).status_code

        for _ in range(rounds):
            statuses = together(create, 64)
            stored = machine.counters.all()
            assert len(stored) == machine.counters.count() == 50
            # What was refused is not there, and what was acknowledged is.
            created = [number for number, status in enumerate(statuses) if status == 201]
            assert sorted(counter.value for counter in stored) == created
            yield Counter(statuses)
            machine.counters.delete_many([counter.id for counter in stored])


def test_the_record_limit_is_exact_however_many_clients_create_at_once(open_machine, database_url, together):
    machine = open_machine(database_url, max_records_per_model=50)
    assert list(create_up_to_the_limit(machine, together, 1)) == [{201: 50, 409: 14}]


@pytest.mark.soak
def test_the_record_limit_is_exact_round_after_round(open_machine, database_url, together):
    machine = open_machine(database_url, max_records_per_model=50)
    started = time.monotonic()
    assert list(create_up_to_the_limit(machine, together, 20)) == [{201: 50, 409: 14}] * 20
    print(f"20 rounds of 64 creates on {machine.storage.engine.dialect.name}: {time.monotonic() - started:.1f} s")


def test_clients_that_read_change_and_write_back_with_if_match_lose_no_update(open_machine, database_url, together):
    machine = open_machine(database_url)
    # Who comes late asks again, so the work grows with the square.
    clients = 40 if database_url.startswith("sqlite:////") else 8
    machine.client.post("/counters/", json={"value": 0})
    with machine.served() as address:

        def add(number):
            """Add so much to the counter; tells how often somebody else was faster."""
            with httpx.Client(base_url=address, headers=ACTOR, timeout=60) as client:
                refused = 0
                while True:
                    read = client.get("/counters/1")
                    changed = {"value": read.json()["value"] + number}
                    answer = client.put("/counters/1", json=changed, headers={"If-Match": read.headers["etag"]})
                    if answer.status_code == 200:
                        return refused
                    assert answer.status_code == 412, answer.text
                    refused += 1

        refused = together(add, clients)
    assert sum(refused) > 0
    assert machine.counters.get(1).value == sum(range(clients))
    rows = machine.client.get("/db/audit", params={"operation": "update"}).json()
    values = [row["after"]["value"] for row in reversed(rows)]
    assert [row["before"]["value"] for row in reversed(rows)] == [0, *values[:-1]]
    assert len(rows) == clients - 1


def test_clients_that_delete_at_once_delete_once(open_machine, database_url, together):
    machine = open_machine(database_url)
    machine.client.post("/users/", json={"name": "Ana", "email": "a@x"})
    with machine.served() as address:
        answers = together(lambda _: httpx.delete(f"{address}/users/1", headers=ACTOR, timeout=60).status_code, 8)
    assert sorted(answers) == [200] + [404] * 7
    rows = machine.client.get("/db/audit", params={"component": "users"}).json()
    assert [row["operation"] for row in rows] == ["soft_delete", "create"]


def test_clients_that_put_a_missing_record_at_once_create_it_once(open_machine, database_url, together):
    machine = open_machine(database_url)
    with machine.served() as address:

        def put(number):
            return httpx.put(
                f"{address}/devices/A1", json={"label": f"{number}"}, headers=ACTOR, timeout=60
            ).status_code

        statuses = together(put, 8)
    assert statuses.count(201) == 1
    assert set(statuses) <= {200, 201, 409}


def test_the_server_answers_others_while_a_request_waits_for_the_database(machine):
    held, release = threading.Event(), threading.Event()

    @machine.users.before_insert()
    def hold(instance):
        held.set()
        assert release.wait(30)

    with machine.served() as address, ThreadPoolExecutor(2) as pool:
        user = {"name": "Ana", "email": "a@x"}
        slow = pool.submit(httpx.post, f"{address}/users/", json=user, headers=ACTOR, timeout=60)
        assert held.wait(30)
        waiting = pool.submit(httpx.post, f"{address}/counters/", json={}, headers=ACTOR, timeout=60)
        assert httpx.get(f"{address}/users/").json() == []
        assert httpx.get(f"{address}/db/health").json()["status"] == "ok"
        assert not slow.done()
        assert not waiting.done()
        release.set()
        assert (slow.result().status_code, waiting.result().status_code) == (201, 201)


def test_a_writer_that_waits_too_long_gets_503_and_writes_nothing(open_machine, make_database):
    machine = open_machine(make_database("sqlite"), config={"engine": {"timeout_seconds": 0.2}})
    with machine.served() as address, machine.storage.transaction():
        answer = httpx.post(f"{address}/counters/", json={}, headers=ACTOR)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, str(StorageBusy.retry_after_seconds))
    assert machine.counters.count() == 0


def test_a_request_whose_transaction_the_database_undid_is_run_again(machine):
    conflicts = iter([TransactionConflict("again"), TransactionConflict("again")])

    @machine.counters.after_insert()
    def conflict_twice(instance):
        error = next(conflicts, None)
        if error is not None:
            raise error

    assert machine.client.post("/counters/", json={"value": 3}).json() == {"id": 1, "value": 3}
    assert len(machine.client.get("/db/audit").json()) == machine.counters.count() == 1


def test_a_conflict_that_does_not_end_is_503(machine):
    @machine.counters.after_insert()
    def conflict(instance):
        raise TransactionConflict("others stood in the way")

    assert machine.client.post("/counters/", json={"value": 3}).status_code == 503
