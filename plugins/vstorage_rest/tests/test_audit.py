"""The audit trail over HTTP."""

import re
from datetime import datetime, timedelta, timezone

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from models import Counter
from sqlalchemy import event

from vstorage_core import acting_as
from vstorage_core.audit import AUDIT_TABLE
from vstorage_rest import build_db_router


@pytest.fixture
def components():
    return ["counters", "users"]


@pytest.fixture
def busy(machine):
    """A machine on which ana and ben have been at work."""
    with acting_as("ana"):
        machine.counters.insert_many([Counter(value=number) for number in range(3)])
        machine.client.post("/users/", json={"name": "Ana", "email": "a@x"})
    machine.counters.update(2, actor="ben", value=9)
    machine.counters.delete(3, actor="ben")
    return machine.client


def rows(answer):
    assert answer.status_code == 200, answer.text
    return [(row["component"], row["record_id"], row["operation"], row["actor"]) for row in answer.json()]


def test_the_trail_is_read_newest_first_and_tells_before_and_after(busy):
    answer = busy.get("/db/audit")
    assert rows(answer) == [
        ("counters", 3, "delete", "ben"),
        ("counters", 2, "update", "ben"),
        ("users", 1, "create", "ana"),
        ("counters", 3, "create", "ana"),
        ("counters", 2, "create", "ana"),
        ("counters", 1, "create", "ana"),
    ]
    deleted, updated = answer.json()[:2]
    assert (deleted["before"], deleted["after"]) == ({"id": 3, "value": 2}, None)
    assert (updated["before"], updated["after"]) == ({"id": 2, "value": 1}, {"id": 2, "value": 9})
    assert datetime.fromisoformat(deleted["timestamp"].replace("Z", "+00:00")).tzinfo is not None


def test_every_filter_of_the_original_works(busy):
    for parameters, count in (
        ({"component": "counters"}, 5),
        ({"component": "nothing"}, 0),
        ({"component": "counters", "record_id": 2}, 2),
        ({"record_id": 1}, 2),
        ({"actor": "ben"}, 2),
        ({"operation": "create"}, 4),
        ({"component": "counters", "operation": "create", "actor": "ana"}, 3),
        ({"limit": 2}, 2),
        ({"offset": 4}, 2),
        ({"since": "2020-01-01T00:00:00Z"}, 6),
        ({"since": "2020-01-01T00:00:00"}, 6),
        ({"until": "2020-01-01T00:00:00Z"}, 0),
        ({"since": "2099-01-01T00:00:00+05:00"}, 0),
    ):
        assert len(busy.get("/db/audit", params=parameters).json()) == count, parameters


def test_since_and_until_compare_instants_and_not_their_spelling(machine, busy):
    now = datetime.now(timezone.utc)
    for zone in (timezone(timedelta(hours=-11)), timezone.utc, timezone(timedelta(hours=14))):
        for offset, count in ((timedelta(minutes=-5), 6), (timedelta(minutes=5), 0)):
            instant = (now + offset).astimezone(zone).isoformat()
            assert len(busy.get("/db/audit", params={"since": instant}).json()) == count
            assert len(busy.get("/db/audit", params={"until": instant}).json()) == 6 - count


def test_pages_give_every_row_once_although_many_share_one_instant(any_machine):
    any_machine.counters.insert_many([Counter(value=number) for number in range(9)])
    client = any_machine.client
    whole = [row["id"] for row in client.get("/db/audit").json()]
    assert whole == sorted(whole, reverse=True)
    for way in ("cursor", "offset"):
        found, url = [], "/db/audit?limit=2"
        while url:
            page = client.get(url)
            found += [row["id"] for row in page.json()]
            link = re.search(r'<([^>]*)>; rel="next"', page.headers.get("link", ""))
            url = link and (link[1] if way == "cursor" else f"/db/audit?limit=2&offset={len(found)}")
        assert found == whole, way


def test_a_cursor_stays_where_it_is_while_rows_are_added(machine, busy):
    first = busy.get("/db/audit", params={"limit": 2})
    machine.counters.insert(Counter())
    second = busy.get(re.search("<([^>]*)>", first.headers["link"])[1])
    assert [row["id"] for row in second.json()] == [first.json()[-1]["id"] - 1, first.json()[-1]["id"] - 2]


def test_the_number_of_rows_is_told_on_request(busy):
    answer = busy.get("/db/audit", params={"component": "counters", "limit": 1, "count": True})
    assert answer.headers["x-total-count"] == "5"


def test_a_question_that_cannot_be_answered_is_422_naming_the_parameter(client):
    for parameter, value in {
        "limit": 1001,
        "offset": -1,
        "operation": "explode",
        "since": "yesterday",
        "cursor": "nowhere",
        "component": "\0",
    }.items():
        answer = client.get("/db/audit", params={parameter: value})
        assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", parameter])


def test_the_limits_are_those_of_the_router(machine):
    machine.counters.insert_many([Counter() for _ in range(5)])
    app = FastAPI()
    app.include_router(build_db_router(audit_default_limit=2, audit_max_limit=3, storage=machine.storage))
    client = TestClient(app, base_url="http://localhost", client=("127.0.0.1", 1))
    assert len(client.get("/db/audit").json()) == 2
    assert len(client.get("/db/audit?limit=3").json()) == 3
    assert client.get("/db/audit?limit=4").status_code == 422


def test_a_page_is_found_through_an_index_at_any_depth(machine):
    machine.counters.insert_many([Counter() for _ in range(50)])
    client = machine.client
    page = client.get("/db/audit", params={"component": "counters", "limit": 10})
    second = re.search("<([^>]*)>", page.headers["link"])[1]
    sent = []
    event.listen(
        machine.storage._open().read_engine, "before_cursor_execute", lambda *arguments: sent.append(arguments[2:4])
    )
    client.get(second)
    statement, values = next(pair for pair in sent if "FROM auditlog" in pair[0])
    with machine.storage.snapshot() as connection:
        plan = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
    index = "ix_auditlog_component_timestamp (component=? AND timestamp<?)"
    assert plan == [f"SEARCH auditlog USING INDEX {index}"]


def test_rows_that_the_original_wrote_are_read(machine):
    with machine.storage.transaction() as session:
        session.connection().execute(
            AUDIT_TABLE.insert(),
            {
                "timestamp": datetime(2024, 5, 1, tzinfo=timezone.utc),
                "component": "users",
                "record_id": 3,
                "operation": "create",
                "actor": "Operator",
                "after": {"id": 3},
            },
        )
    row = machine.client.get("/db/audit").json()[0]
    assert (row["record_id"], row["actor_source"], row["after"]) == (3, None, {"id": 3})
