"""The records of one component as files, in whatever formats the plugins write."""

import csv
import io
import json

import pytest
from sqlmodel import Field, SQLModel

from vstorage_core import Exporter, NoOptions, TableExporter, hookimpl


class Secret(SQLModel, table=True):
    """Has a field that never leaves the server, and one that is called like an option."""

    id: int | None = Field(default=None, primary_key=True)
    code: str = Field(exclude=True)
    dialect: str = ""


@pytest.fixture
def components():
    return ["users", "devices"]


class Names:
    """A format of a third party."""

    @hookimpl
    def vstorage_register_exporters(self):
        single = TableExporter(filename="export.names", media_type="text/plain", write=self.write)
        yield Exporter(name="names", filename="names.txt", media_type="text/plain", write=None, table=single)

    def write(self, storage, selection, stream, options):
        assert isinstance(options, NoOptions)
        with storage.snapshot() as connection:
            stream.write(json.dumps([list(row) for row in connection.execute(selection.select())]).encode())


@pytest.fixture
def plugins():
    import vstorage_csv.plugin

    return [vstorage_csv.plugin, Names()]


@pytest.fixture
def machine(open_machine, make_database, plugins):
    return open_machine(make_database("sqlite"), plugins=plugins)


@pytest.fixture
def filled(client):
    for name, age in (("Ana", 30), ("Ben", 20), ("Cid", 70)):
        user = {"name": name, "email": f"{name}@example.com", "age": age}
        assert client.post("/users/", json=user, headers={"X-User": "ana"}).status_code == 201
    client.delete("/users/3", headers={"X-User": "ana"})
    return client


def rows(answer):
    assert answer.status_code == 200, answer.text
    return list(csv.reader(io.StringIO(answer.content.decode(), newline="")))


def test_the_records_of_a_component_are_a_csv_file(filled):
    answer = filled.get("/users/export.csv")
    assert rows(answer)[0] == ["id", "name", "email", "age", "deleted_at"]
    assert [row[1] for row in rows(answer)[1:]] == ["Ana", "Ben"]
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith('attachment; filename="users-')


def test_filters_order_and_fields_are_those_of_the_list_and_options_those_of_the_exporter(filled):
    answer = filled.get(
        "/users/export.csv?age__gte=25&include_deleted=true&order_by=-name&fields=name,age&dialect=spreadsheet&delimiter=;"
    )
    assert answer.content.decode() == '\ufeff"name";"age"\r\n"Cid";70\r\n"Ana";30\r\n'


def test_a_format_of_a_third_party_is_served_as_well(filled):
    assert filled.get("/users/export.names?name=Ben&fields=id,name").json() == [[2, "Ben"]]
    assert filled.get("/devices/export.names").json() == []


@pytest.mark.parametrize(
    ("query", "where"),
    [
        ("age__gte=old", "age__gte"),
        ("agee=3", "agee"),
        ("dialect=excel", "dialect"),
        ("limit=3", "limit"),
        ("fields=agee", "fields"),
        ("order_by=agee", "order_by"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_by_name(client, query, where):
    answer = client.get(f"/users/export.csv?{query}")
    assert (answer.status_code, answer.json()["detail"][0]["loc"]) == (422, ["query", where])


def test_options_that_do_not_go_together_are_refused(client):
    answer = client.get("/users/export.csv?delimiter=;")
    assert answer.status_code == 422
    assert "are for dialect=spreadsheet" in answer.json()["detail"][0]["msg"]


def test_the_parameters_stand_in_the_openapi_document(client):
    get = client.get("/openapi.json").json()["paths"]["/users/export.csv"]["get"]
    names = {parameter["name"] for parameter in get["parameters"]}
    assert {"age__gte", "include_deleted", "order_by", "dialect", "delimiter"} <= names
    assert not {"limit", "offset", "after", "count", "tables", "where"} & names
    assert get["operationId"] == "export_users_csv"
    assert "text/csv" in get["responses"]["200"]["content"]


def test_hidden_fields_stay_hidden_and_a_field_called_like_an_option_is_still_a_filter(
    open_machine, make_database, plugins
):
    client = open_machine(make_database("sqlite"), plugins=plugins, models={"secrets": Secret}).client
    for dialect in ("a", "b"):
        client.post("/secrets/", json={"code": "1234", "dialect": dialect}, headers={"X-User": "ana"})
    answer = client.get("/secrets/export.csv?dialect__eq=b&dialect=exact")
    assert answer.content == b'"id","dialect"\n2,"b"\n'


def test_who_may_not_read_the_records_may_not_export_them(open_machine, make_database, plugins):
    class Guard:
        @hookimpl(optionalhook=True)
        def vstorage_authorize(self, action, component):
            return False if (action, component) == ("records.read", "users") else None

    client = open_machine(make_database("sqlite"), plugins=[*plugins, Guard()]).client
    assert client.get("/users/export.csv").status_code == 403
    assert client.get("/devices/export.csv").status_code == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "POST"])
def test_the_file_is_no_record_that_could_be_written(client, method):
    answer = client.request(method, "/users/export.csv", json={"name": "x", "email": "x@x.com"})
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
