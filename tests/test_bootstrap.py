"""bootstrap() and the default storage: with and without a web application, once, twice, on a second database."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from models import Counter, Device, User

from vstorage_core import ConfigurationError, ModelAccessor, Storage, bootstrap, database, use_default_storage
from vstorage_core.database import default_storage

# As an application has them: made once, without a storage.
users = ModelAccessor(User, "users")
counters = ModelAccessor(Counter, "counters")


@pytest.fixture
def boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Storage]]:
    """bootstrap(), in an empty folder, with the REST plugin alone; what it opens is closed at the end."""
    installed = {entry_point.name for entry_point in importlib.metadata.entry_points(group="vstorage.plugins")}
    monkeypatch.setenv("VSTORAGE_DISABLED_PLUGINS", ",".join(installed - {"rest"}))
    monkeypatch.delenv("VSTORAGE_DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    opened: list[Storage] = []

    def boot(*arguments: Any, **options: Any) -> Storage:
        opened.append(bootstrap(*arguments, **options))
        return opened[-1]

    with Storage() as storage, use_default_storage(storage):
        yield boot
        for storage in opened:
            storage.close()


# Without a web application


def test_a_machine_without_a_web_api_needs_no_app(boot):
    storage = boot(accessors=[users], database_url="sqlite:///./machine.db")
    users.insert(User(name="Ana", email="a@example.com"))
    assert Path("machine.db").exists()
    assert storage.accessors[0].component == "users"


def test_the_url_comes_from_the_environment_or_is_storage_db(boot, monkeypatch):
    boot(accessors=[counters])
    counters.insert(Counter())
    assert Path("storage.db").exists()
    monkeypatch.setenv("VSTORAGE_DATABASE_URL", "sqlite:///./elsewhere.db")
    with Storage() as storage, use_default_storage(storage):
        boot(accessors=[counters])
        assert counters.count() == 0
    assert Path("elsewhere.db").exists()


def test_tables_are_created_unless_told_otherwise(boot):
    boot(accessors=[counters], database_url="sqlite:///./machine.db", create_tables=False)
    with pytest.raises(ConfigurationError, match="no such table: counter; create it with bootstrap"):
        counters.count()
    boot(accessors=[counters])
    assert counters.count() == 0


def run_alone(script: str, *arguments: str) -> Any:
    """What the script prints as JSON in a process of its own, in which no web framework can be imported."""
    preamble = """
        import importlib.abc, json, sys
        sys.path[:0] = json.loads(sys.argv[1])

        class NoWebFramework(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("fastapi", "starlette", "uvicorn", "multipart"):
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)

        sys.meta_path.insert(0, NoWebFramework())
    """
    done = subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            "-c",
            textwrap.dedent(preamble) + textwrap.dedent(script),
            json.dumps(sys.path),
            *arguments,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_everything_but_the_web_api_works_where_no_web_framework_can_be_imported(tmp_path):
    answer = run_alone(
        """
        from models import Counter
        from vstorage_core import ModelAccessor, bootstrap

        counters = ModelAccessor(Counter, "counters")
        with bootstrap(accessors=[counters], database_url=sys.argv[2]) as storage:
            counters.insert(Counter(value=7))
            names = [plugin.name for plugin in storage.plugins()]
            print(json.dumps([counters.get(1).value, storage.health().ok, "rest" in names]))
        """,
        f"sqlite:///{tmp_path}/machine.db",
    )
    assert answer == [7, True, True]


def test_importing_the_core_loads_nothing_that_a_small_machine_does_not_need():
    loaded = run_alone("import vstorage_core; print(json.dumps(sorted(sys.modules)))")
    packages = {name.split(".")[0] for name in loaded}
    unwanted = {"fastapi", "starlette", "uvicorn", "click", "httpx", "multipart", "psycopg", "pymysql"}
    unwanted |= {"vstorage_rest", "vstorage_csv", "vstorage_backup", "vstorage_diagram", "vstorage_cli"}
    unwanted |= {"vstorage_migrate", "alembic"}
    assert packages & unwanted == set()


def test_a_machine_that_starts_does_not_wait_for_what_few_of_its_requests_need():
    loaded = run_alone(
        """
        from vstorage_core import bootstrap

        bootstrap(accessors=[], database_url="sqlite://")
        print(json.dumps(sorted(sys.modules)))
        """
    )
    drawing = {name for name in loaded if name.startswith("vstorage_diagram.")}
    assert drawing == {"vstorage_diagram.plugin", "vstorage_diagram.exporters"}
    assert {"pyarrow", "alembic"} & set(loaded) == set()


# With one


def test_an_application_gets_the_routes_of_its_accessors(boot):
    app = FastAPI()
    boot(app, accessors=[users, counters], database_url="sqlite:///./machine.db")
    client = TestClient(app)
    client.post("/counters/", json={"value": 3}, headers={"X-User": "ana"})
    assert client.get("/counters/").json() == [{"id": 1, "value": 3}]
    assert client.get("/users/").json() == []
    assert client.get("/db/health").status_code == 200


def test_the_routes_below_db_may_be_left_out(boot):
    app = FastAPI()
    boot(app, accessors=[counters], database_url="sqlite:///./machine.db", enable_db_router=False)
    assert TestClient(app).get("/db/health").status_code == 404


def test_an_app_that_takes_no_routers_is_refused(boot):
    with pytest.raises(ConfigurationError, match="has no include_router; give bootstrap a FastAPI application, or no"):
        boot(object(), accessors=[counters])


def test_an_app_without_a_plugin_that_serves_it_is_refused_with_the_way_out(boot, monkeypatch):
    with (
        Storage(entry_points=[]) as storage,
        pytest.raises(ConfigurationError, match=r"pip install 'vstorage-core\[rest\]', or call bootstrap without an"),
    ):
        boot(FastAPI(), accessors=[counters], storage=storage)


# Twice


def test_one_app_may_be_bootstrapped_twice_with_other_accessors(boot):
    app = FastAPI()
    boot(app, accessors=[users], database_url="sqlite:///./machine.db")
    boot(app, accessors=[counters], enable_db_router=False)
    client = TestClient(app)
    assert client.get("/users/").json() == client.get("/counters/").json() == []


def test_one_app_may_serve_two_databases(boot, make_database):
    app = FastAPI()
    with Storage(make_database("sqlite")) as first, Storage(make_database("sqlite")) as second:
        boot(app, accessors=[ModelAccessor(Counter, "line1", storage=first)], storage=first)
        boot(app, accessors=[ModelAccessor(Counter, "line2", storage=second)], storage=second, enable_db_router=False)
        client = TestClient(app)
        client.post("/line1/", json={"value": 1}, headers={"X-User": "ana"})
        client.post("/line2/", json={"value": 2}, headers={"X-User": "ana"})
        assert [client.get(f"/line{line}/").json()[0]["value"] for line in (1, 2)] == [1, 2]


def test_a_route_that_is_taken_is_refused_with_both_names_and_mounts_nothing(boot):
    app = FastAPI()
    boot(app, accessors=[users], database_url="sqlite:///./machine.db")
    before = app.openapi()["paths"]
    app.openapi_schema = None
    with pytest.raises(ConfigurationError) as caught:
        boot(app, accessors=[counters, users])
    text = str(caught.value)
    assert "/users/" in text
    assert text.count("plugin 'rest' (vstorage-rest") == 2
    assert text.endswith("use another component or another app")
    assert app.openapi()["paths"] == before


def test_a_component_that_would_shadow_the_database_routes_is_refused(boot):
    with pytest.raises(ConfigurationError, match="db"):
        boot(FastAPI(), accessors=[ModelAccessor(Counter, "db")])


def test_two_accessors_of_one_component_are_refused(boot):
    with pytest.raises(ConfigurationError, match="two accessors have the component 'users'; rename one of them"):
        boot(accessors=[users, ModelAccessor(Device, "users")])


def test_a_second_database_takes_over_and_the_first_keeps_its_data(boot):
    first = boot(accessors=[counters], database_url="sqlite:///./first.db")
    counters.insert(Counter(value=1))
    second = boot(accessors=[counters], database_url="sqlite:///./second.db")
    assert second is not first
    assert counters.count() == 0
    with use_default_storage(first):
        assert counters.get(1).value == 1


def test_the_same_url_is_the_same_storage(boot):
    first = boot(accessors=[counters], database_url="sqlite:///./machine.db")
    assert boot(accessors=[users], database_url="sqlite:///./machine.db") is first
    assert [accessor.component for accessor in first.accessors] == ["counters", "users"]


def test_a_storage_of_ones_own_leaves_the_default_one_alone(boot, make_database, open_storage):
    own = open_storage(make_database("sqlite"))
    default = default_storage()
    assert boot(accessors=[counters], storage=own) is own
    assert default_storage() is default
    with use_default_storage(own):
        counters.insert(Counter(value=1))
        assert counters.count() == 1


def test_a_storage_and_a_url_are_one_too_many(boot, make_database, open_storage):
    own = open_storage(make_database("sqlite"))
    for options in ({"database_url": "sqlite://"}, {"config": {}}):
        with pytest.raises(ConfigurationError, match="give bootstrap either a storage, or a database_url and config"):
            bootstrap(accessors=[], storage=own, **options)


def test_an_accessor_of_another_storage_is_refused(boot, make_database, open_storage):
    own, other = open_storage(make_database("sqlite")), open_storage(make_database("sqlite"))
    with pytest.raises(ConfigurationError, match="belongs to"):
        boot(accessors=[ModelAccessor(Counter, "counters", storage=own)], storage=other)


def test_settings_reach_the_storage_that_bootstrap_opens(boot):
    storage = boot(accessors=[counters], config={"engine": {"durability": "normal"}})
    with storage.engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 1


# The original's module functions


def test_the_module_functions_work_on_the_default_storage(boot):
    boot(accessors=[counters], database_url="sqlite:///./machine.db")
    with database.transaction() as session:
        session.add(Counter(value=1))
        with database.use_session() as same:
            assert same is session
    with database.use_session() as session:
        assert session.get_one(Counter, 1).value == 1
    assert database.get_engine() is default_storage().engine
    assert str(database.get_engine().url).endswith("/machine.db")


def test_set_database_url_may_be_called_at_any_time(boot):
    boot(accessors=[counters], database_url="sqlite:///./first.db")
    counters.insert(Counter())
    database.set_database_url("sqlite:///./second.db")
    with default_storage() as second:
        second.create_tables()
        assert counters.count() == 0


def test_a_given_url_needs_no_other_one_that_works(boot, monkeypatch):
    monkeypatch.setattr(database, "_default", [])  # as in a process that has just started
    monkeypatch.setenv("VSTORAGE_DATABASE_URL", "no URL")
    storage = boot(accessors=[counters], database_url="sqlite:///./machine.db")
    assert counters.insert(Counter()).id == 1
    assert storage is default_storage()


def test_threads_that_ask_first_at_the_same_time_get_one_engine(boot):
    with ThreadPoolExecutor(16) as pool:
        engines = list(pool.map(lambda _: database.get_engine(), range(16)))
    assert len({id(engine) for engine in engines}) == 1


def test_a_test_may_swap_the_default_storage_and_put_it_back(boot, make_database, open_storage):
    boot(accessors=[counters])
    counters.insert(Counter())
    with use_default_storage(open_storage(make_database("memory"))):
        assert counters.count() == 0
        with pytest.raises(ZeroDivisionError), use_default_storage(open_storage(make_database("memory"))):
            raise ZeroDivisionError
        assert counters.count() == 0
    assert counters.count() == 1
