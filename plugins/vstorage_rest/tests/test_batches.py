"""Many records in one request, and requests that are sent twice."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

PEOPLE = [{"name": f"P{number}", "email": f"p{number}@x.com"} for number in range(3)]
ACTOR = {"X-User": "ana"}


def test_a_batch_creates_changes_and_deletes_in_the_order_given(any_machine):
    client = any_machine.client
    created = client.post("/users/batch", json=PEOPLE)
    assert created.status_code == 201
    assert [(user["id"], user["name"]) for user in created.json()] == [(1, "P0"), (2, "P1"), (3, "P2")]
    changed = client.patch("/users/batch", json=[{"id": 3, "age": 30}, {"id": 1, "name": "First"}])
    assert [(user["id"], user["name"], user["age"]) for user in changed.json()] == [(3, "P2", 30), (1, "First", None)]
    deleted = client.request("DELETE", "/users/batch", json=[1, 3])
    assert (deleted.status_code, deleted.json()) == (200, {"status": "deleted", "count": 2})
    assert [user["id"] for user in client.get("/users/").json()] == [2]
    operations = [row["operation"] for row in client.get("/db/audit").json()]
    assert operations == ["soft_delete"] * 2 + ["update"] * 2 + ["create"] * 3


def test_a_batch_of_keys_of_any_type_works(client):
    assert client.post("/devices/batch", json=[{"serial": "A"}, {"serial": "B"}]).status_code == 201
    assert client.patch("/devices/batch", json=[{"serial": "A", "label": "x"}]).json() == [
        {"serial": "A", "label": "x"}
    ]
    assert client.request("DELETE", "/devices/batch", json=["A", "B"]).json()["count"] == 2
    tickets = client.post("/tickets/batch", json=[{"title": "t"}]).json()
    assert client.request("DELETE", "/tickets/batch", json=[tickets[0]["key"]]).status_code == 200


def test_an_empty_batch_is_fine(client):
    assert client.post("/users/batch", json=[]).json() == []
    assert client.patch("/users/batch", json=[]).json() == []
    assert client.request("DELETE", "/users/batch", json=[]).json()["count"] == 0


def test_a_batch_with_bad_items_stores_nothing_and_names_each(any_machine):
    client = any_machine.client
    client.post("/users/", json={"name": "Old", "email": "p1@x.com"})
    answer = client.post("/users/batch", json=[*PEOPLE, {"name": "X", "email": "nowhere"}])
    assert answer.status_code == 422
    places = [problem["loc"][:2] for problem in answer.json()["detail"]]
    assert places == [["body", 1], ["body", 3]]
    assert [user["name"] for user in client.get("/users/").json()] == ["Old"]
    assert len(client.get("/db/audit").json()) == 1
    taken = client.post("/users/batch", json=PEOPLE)
    assert (taken.status_code, [problem["loc"][1] for problem in taken.json()["detail"]]) == (409, [1])


def test_shapes_are_checked_item_by_item_before_anything_is_done(client):
    answer = client.post("/users/batch", json=[PEOPLE[0], {"name": 3}, PEOPLE[1], {"nmae": "x"}])
    assert answer.status_code == 422
    assert {problem["loc"][1] for problem in answer.json()["detail"]} == {1, 3}
    answer = client.patch("/users/batch", json=[{"name": "x"}, {"id": None}])
    assert [problem["loc"] for problem in answer.json()["detail"]] == [["body", 0, "id"], ["body", 1, "id"]]
    assert client.request("DELETE", "/users/batch", json=["x"]).status_code == 422


def test_changing_or_deleting_what_is_not_there_is_404_naming_each(client):
    client.post("/users/batch", json=PEOPLE)
    client.delete("/users/2")
    for answer in (
        client.patch("/users/batch", json=[{"id": key, "age": 1} for key in (1, 2, 3, 9)]),
        client.request("DELETE", "/users/batch", json=[1, 2, 3, 9]),
    ):
        assert answer.status_code == 404
        assert [problem["loc"] for problem in answer.json()["detail"]] == [["body", 1], ["body", 3]]
    assert [(user["id"], user["age"]) for user in client.get("/users/").json()] == [(1, None), (3, None)]


def test_deleting_one_record_twice_in_a_batch_is_404(client):
    client.post("/users/batch", json=PEOPLE)
    answer = client.request("DELETE", "/users/batch", json=[1, 1])
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (404, ["body", 1])
    assert client.get("/users/1").status_code == 200


def test_a_hook_refuses_items_of_a_batch(machine, client):
    @machine.users.before_insert()
    def refuse(instance):
        if instance.name == "P1":
            raise ValueError("P1 is not welcome")

    answer = client.post("/users/batch", json=PEOPLE)
    expected = [{"type": "refused", "loc": ["body", 1], "msg": "P1 is not welcome"}]
    assert (answer.status_code, answer.json()["detail"]) == (422, expected)
    assert machine.users.count() == 0


def test_a_batch_is_as_large_as_the_server_allows_and_the_component_has_room(open_machine, make_database):
    config = {"rest": {"max_batch_size": 3}}
    client = open_machine(make_database("sqlite"), config=config, max_records_per_model=4).client
    answer = client.post("/counters/batch", json=[{}] * 4)
    assert (answer.status_code, answer.json()["detail"][0]["msg"]) == (422, "a batch has at most 3 items")
    assert client.post("/counters/batch", json=[{}] * 3).status_code == 201
    assert client.post("/counters/batch", json=[{}] * 2).status_code == 409
    assert client.post("/counters/batch", json=[{}]).status_code == 201


def test_a_batch_needs_an_actor(client):
    del client.headers["X-User"]
    assert client.post("/users/batch", json=PEOPLE).status_code == 400


@pytest.mark.parametrize("path", ["/users/", "/users/batch"])
def test_a_request_sent_again_under_its_key_is_answered_again_and_not_done_again(any_machine, path):
    client, body = any_machine.client, PEOPLE if path.endswith("batch") else PEOPLE[0]
    first = client.post(path, json=body, headers={"Idempotency-Key": "k1"})
    again = client.post(path, json=body, headers={"Idempotency-Key": "k1"})
    assert first.status_code == again.status_code == 201
    assert first.content == again.content
    for name in ("etag", "location"):
        assert first.headers.get(name) == again.headers.get(name)
    assert ("idempotent-replayed" in first.headers, again.headers["idempotent-replayed"]) == (False, "true")
    assert any_machine.users.count() == (3 if path.endswith("batch") else 1)


def test_a_key_belongs_to_one_body_one_path_and_one_actor(client):
    key = {"Idempotency-Key": "k1"}
    assert client.post("/counters/", json={"value": 1}, headers=key).json()["id"] == 1
    answer = client.post("/counters/", json={"value": 2}, headers=key)
    assert (answer.status_code, "Idempotency-Key" in answer.json()["detail"]) == (422, True)
    assert client.post("/samples/", json={}, headers=key).json()["id"] == 1
    assert client.post("/counters/", json={"value": 1}, headers={**key, "X-User": "ben"}).json()["id"] == 2


def test_a_request_that_failed_may_be_sent_again_under_its_key(machine, client):
    key = {"Idempotency-Key": "k1"}
    client.post("/users/", json=PEOPLE[0])
    assert client.post("/users/", json=PEOPLE[0], headers=key).status_code == 409
    client.patch("/users/1", json={"email": "other@x.com"})
    assert client.post("/users/", json=PEOPLE[0], headers=key).status_code == 201


def test_one_request_sent_many_times_at_once_is_done_once(open_machine, database_url):
    machine = open_machine(database_url)
    with machine.served() as address, ThreadPoolExecutor(8) as pool:

        def send(_number):
            headers = {**ACTOR, "Idempotency-Key": "k1"}
            return httpx.post(f"{address}/counters/", json={"value": 1}, headers=headers, timeout=60)

        answers = list(pool.map(send, range(8)))
    assert {answer.status_code for answer in answers} == {201}
    assert {answer.content for answer in answers} == {answers[0].content}
    assert machine.counters.count() == 1


def test_answers_are_forgotten_after_a_day(open_machine, make_database):
    url, key = make_database("sqlite"), {"Idempotency-Key": "k1"}
    machine = open_machine(url)
    machine.client.post("/counters/", json={"value": 1}, headers=key)
    assert open_machine(url).client.post("/counters/", json={"value": 1}, headers=key).json()["id"] == 1
    with machine.storage.transaction() as session:
        session.connection().exec_driver_sql("UPDATE vstorage_idempotency SET answered_at = answered_at - 86401")
    assert open_machine(url).client.post("/counters/", json={"value": 1}, headers=key).json()["id"] == 2


def test_answers_are_forgotten_when_the_database_is_replaced(machine, client):
    key = {"Idempotency-Key": "k1"}
    client.post("/counters/", json={"value": 1}, headers=key)
    machine.storage.replaced()
    assert client.post("/counters/", json={"value": 1}, headers=key).json()["id"] == 2


def test_the_table_of_answers_is_no_table_of_the_machine(machine, client):
    client.post("/counters/", json={}, headers={"Idempotency-Key": "k1"})
    assert "vstorage_idempotency" not in {table.name for table in machine.storage.tables()}
