"""Lists: filters, order, pages, fields."""

import re
import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal

import pytest
from models import Color, Counter, Sample, User
from sqlalchemy import event

START = datetime(2026, 1, 1, tzinfo=timezone.utc)


@pytest.fixture
def components():
    return ["users", "counters", "samples"]


def names(answer):
    assert answer.status_code == 200, answer.text
    return [record["name"] for record in answer.json()]


def gather(machine):
    """Users of many ages, two without one."""
    ages = {"Ana": 30, "Ben": None, "Cleo": 25, "Dan": 30, "Eve": None, "100%": 1, "1000": 2}
    machine.users.insert_many([User(name=name, email=f"{name}@x.com", age=age) for name, age in ages.items()])
    return machine.client


@pytest.fixture
def crowd(machine):
    return gather(machine)


def test_every_operator_finds_what_it_says(any_machine):
    client = gather(any_machine)
    expected = {
        "age=30": ["Ana", "Dan"],
        "age__ne=30": ["Ben", "Cleo", "Eve", "100%", "1000"],
        "age__gt=25": ["Ana", "Dan"],
        "age__gte=25&age__lt=30": ["Cleo"],
        "age__lte=1": ["100%"],
        "age__in=1,25": ["Cleo", "100%"],
        "age__in=1&age__in=25": ["Cleo", "100%"],
        "age__not_in=30,1": ["Ben", "Cleo", "Eve", "1000"],
        "age__is_null=true": ["Ben", "Eve"],
        "age__is_null=false&name__ne=Ana": ["Cleo", "Dan", "100%", "1000"],
        "name__contains=0%25": ["100%"],
        "name__startswith=100": ["100%", "1000"],
        "email__endswith=n@x.com": ["Ben", "Dan"],
        "name__like=1%250": ["1000"],
        "name__ilike=a%25": ["Ana"],
        "name=": [],
    }
    assert {query: names(client.get(f"/users/?{query}")) for query in expected} == expected


def test_values_are_compared_in_the_type_of_their_field(any_machine):
    any_machine.samples.insert_many(
        [
            Sample(
                moment=START + timedelta(days=number - 1),
                price=Decimal(number),
                color=Color.BLUE if number % 2 == 0 else Color.RED,
                flag=number % 2 == 1,
                day=date(2026, 2, number),
                clock=time(number),
                token=uuid.UUID(int=number),
                ratio=number / 10,
            )
            for number in range(1, 5)
        ]
    )
    expected = {
        "moment__gte=2026-01-03T00:00:00Z": [3, 4],
        "moment__lt=2026-01-02T00:00:00": [1],
        "moment=2026-01-02T02:00:00%2B02:00": [2],
        "price__gt=2.5": [3, 4],
        "price=2.00": [2],
        "color=b": [2, 4],
        "flag=true": [1, 3],
        "day__lte=2026-02-02": [1, 2],
        "clock__lt=02:00": [1],
        "token=00000000-0000-0000-0000-000000000003": [3],
        "ratio__gt=0.25": [3, 4],
        "order_by=-moment": [4, 3, 2, 1],
        "order_by=flag,-price": [4, 2, 3, 1],
    }
    client = any_machine.client
    found = {query: [record["id"] for record in client.get(f"/samples/?{query}").json()] for query in expected}
    assert found == expected


def test_a_query_that_cannot_be_answered_is_422_naming_the_parameter(client):
    for parameter, value in (
        ("agee", 3),
        ("age__about", 3),
        ("age", "old"),
        ("age", ""),
        ("age", 2**63),
        ("age__in", "1,old"),
        ("name", "\0"),
        ("order_by", "agee"),
        ("order_by", ""),
        ("fields", "id,agee"),
        ("limit", 0),
        ("offset", -1),
        ("offset", 2**63),
        ("after", "nowhere"),
        ("after", "eyJvcmRlciI6ImFnZSxpZCIsImF0IjpbMSwxXX0"),
    ):
        answer = client.get("/users/", params={parameter: str(value)})
        assert answer.status_code == 422, (parameter, value)
        assert answer.json()["detail"][0]["loc"][:2] == ["query", parameter]


def test_a_comparison_that_no_database_can_make_is_422(client):
    for query in ("ratio__gt=nan", "ratio=1e999", "order_by=settings", "order_by=raw", "raw=x", "settings=x"):
        assert client.get(f"/samples/?{query}").status_code == 422, query


def test_order_is_by_the_fields_asked_for_and_then_by_key(crowd):
    assert names(crowd.get("/users/", params={"order_by": "-age,name"}))[:2] == ["Ana", "Dan"]
    assert names(crowd.get("/users/", params={"order_by": "-name", "age": 30})) == ["Dan", "Ana"]


def test_following_the_links_gives_every_record_once_in_order(any_machine):
    client = gather(any_machine)
    for order_by in ("id", "-id", "age", "-age", "-age,name", "name,-id"):
        whole = names(client.get("/users/", params={"order_by": order_by}))
        assert len(whole) == 7
        found, url = [], f"/users/?limit=2&order_by={order_by}"
        while url:
            page = client.get(url)
            found += names(page)
            url = next_page(page)
        assert found == whole, order_by


def test_records_without_a_value_stand_before_the_others_on_every_database(any_machine):
    client = gather(any_machine)
    assert names(client.get("/users/?order_by=age&limit=3")) == ["Ben", "Eve", "100%"]
    assert names(client.get("/users/?order_by=-age&offset=5")) == ["Ben", "Eve"]


def test_pages_stay_stable_while_records_come_and_go(crowd, machine):
    first = crowd.get("/users/", params={"limit": 3})
    assert names(first) == ["Ana", "Ben", "Cleo"]
    machine.users.delete(1)
    assert names(crowd.get(next_page(first))) == ["Dan", "Eve", "100%"]


def test_offset_pages_lead_back(crowd):
    page = crowd.get("/users/", params={"limit": 2, "offset": 3})
    assert names(page) == ["Dan", "Eve"]
    back = re.search(r'<([^>]*)>; rel="prev"', page.headers["link"])[1]
    assert names(crowd.get(back)) == ["Ben", "Cleo"]


def test_the_last_page_has_no_next_one(crowd):
    assert "link" not in crowd.get("/users/", params={"limit": 7}).headers


def test_the_total_is_told_on_request(crowd):
    answer = crowd.get("/users/", params={"age": 30, "limit": 1, "count": True})
    assert (len(answer.json()), answer.headers["x-total-count"]) == (1, "2")
    assert "x-total-count" not in crowd.get("/users/").headers


def test_only_the_fields_asked_for_are_sent(crowd):
    answer = crowd.get("/users/", params={"fields": "name,age", "limit": 1})
    assert answer.json() == [{"name": "Ana", "age": 30}]
    assert answer.headers["content-type"] == "application/vnd.vstorage.fields+json"


def test_no_page_is_larger_than_the_server_allows(open_machine, make_database):
    machine = open_machine(make_database("sqlite"), config={"rest": {"max_page_size": 3}})
    machine.users.insert_many([User(name="x", email=f"{number}@x.com") for number in range(5)])
    first = machine.client.get("/users/")
    assert [record["id"] for record in first.json()] == [1, 2, 3]
    assert [record["id"] for record in machine.client.get(next_page(first)).json()] == [4, 5]
    assert len(machine.client.get("/users/", params={"limit": 100}).json()) == 3


def test_a_field_named_like_a_parameter_can_be_filtered(open_machine, make_database):
    from sqlmodel import Field, SQLModel

    class Quota(SQLModel, table=True):
        __tablename__ = "rest_quota"

        id: int | None = Field(default=None, primary_key=True)
        limit: int

    machine = open_machine(make_database("sqlite"), models={"quotas": Quota})
    machine.quotas.insert_many([Quota(limit=1), Quota(limit=2)])
    found = machine.client.get("/quotas/", params={"limit": 5, "limit__eq": 2})
    assert [record["limit"] for record in found.json()] == [2]


def test_python_takes_the_same_filters(machine):
    people = [("Ana", 30), ("Ben", None), ("Cleo", 25)]
    machine.users.insert_many([User(name=name, email=f"{name}@x.com", age=age) for name, age in people])
    found = machine.users.find(User.name != "Ben", age__gte="25", order_by="age", name__in=["Ana", "Ben", "Cleo"])
    assert [user.name for user in found] == ["Cleo", "Ana"]
    assert machine.users.count(age__is_null=True) == machine.users.count(age=None) == 1
    assert [user.name for user in machine.users.all(age__ne=30)] == ["Ben", "Cleo"]
    assert [user.name for user in machine.users.iterate(name__startswith="C")] == ["Cleo"]


def test_python_filters_that_make_no_sense_are_refused(machine):
    for filters, message in (
        ({"agee": 3}, "cannot filter by 'agee'; the fields are id, name, email, age, deleted_at"),
        ({"age__like": "3"}, "the operators of age are eq, ne, in"),
        ({"age": "old"}, "'old' cannot be compared with age"),
        ({"age__in": "12"}, "age__in takes a list"),
        ({"age__is_null": "yes"}, "age__is_null takes True or False"),
        ({"deleted_at__gt": datetime(2026, 1, 1)}, "time zone"),  # noqa: DTZ001
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            machine.users.find(**filters)


def test_a_page_deep_in_a_long_list_is_found_by_its_key(machine):
    machine.counters.insert_many([Counter(value=number) for number in range(50)])
    second = next_page(machine.client.get("/counters/", params={"limit": 5}))
    sent = []
    engine = machine.storage._open().read_engine
    event.listen(engine, "before_cursor_execute", lambda *arguments: sent.append(arguments[2:4]))
    assert [record["id"] for record in machine.client.get(second).json()] == [6, 7, 8, 9, 10]
    statement, values = next(pair for pair in sent if "FROM counter" in pair[0])
    with machine.storage.snapshot() as connection:
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
    assert [row[3] for row in plan] == ["SEARCH counter USING INTEGER PRIMARY KEY (rowid>?)"]


def next_page(answer):
    found = re.search(r'<([^>]*)>; rel="next"', answer.headers.get("link", ""))
    return found and found[1]


def test_a_list_spells_each_record_as_the_record_itself_is_spelled(any_machine):
    zone = timezone(timedelta(hours=-5, minutes=-30))
    any_machine.samples.insert_many(
        [
            Sample(
                moment=datetime(2026, 1, 1, tzinfo=timezone.utc), ratio=-0.0, raw=b"\xff\x00", duration=timedelta(-1)
            ),
            Sample(moment=datetime(2026, 1, 1, 2, 3, 4, 5, tzinfo=zone), price=Decimal("-0.00"), color=Color.BLUE),
            Sample(moment=datetime(1000, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc), day=date(1000, 1, 2)),
            Sample(
                number=2**63 - 1, clock=time(1, 2, 3, 4), token=uuid.UUID(int=7), settings={"ä": [None, 1.5, "\u2028"]}
            ),
            Sample(number=-(2**63), text='"\\\n\u2028😀', ratio=1e300, flag=True, price=Decimal("9999999999.99")),
        ]
    )
    client = any_machine.client
    records = [client.get(f"/samples/{key}").text for key in range(1, 6)]
    assert client.get("/samples/").text == f"[{','.join(records)}]"
    # Past the driver's own rows, too.
    fields = "id,moment,price,ratio"
    [first, *_] = client.get(f"/samples/?fields={fields}&order_by=-moment").json()
    assert first == {name: client.get(f"/samples/{first['id']}").json()[name] for name in fields.split(",")}
