"""Every Python block of the original's README that can run, with its imports renamed and what it leaves out supplied.

`storage.*` became `vstorage_core.*`, the routers `vstorage_rest.*`; `localhost:8000` is a real server. Lines that
are not the README's stand behind a comment `# supplied`.
"""

from __future__ import annotations

import csv
import inspect
import io
import os
import re
import sqlite3
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from sqlmodel import SQLModel, select

from vstorage_core import AuditLog, ModelAccessor, Storage, use_default_storage
from vstorage_core.database import default_storage

BASIC_USAGE = """
from datetime import datetime
from typing import Optional
from sqlmodel import Field, SQLModel
from vstorage_core import database
from vstorage_core.accessor import ModelAccessor
from vstorage_rest.router_model import build_crud_router
from vstorage_rest.router_database import build_db_router
from vstorage_core.bootstrap import bootstrap
from fastapi import FastAPI

# 1. Define your models
class User(SQLModel, table=True):
    id: Optional[int] = Field(default=None, primary_key=True)
    name: str
    email: str
    deleted_at: Optional[datetime] = Field(default=None, index=True)  # Optional soft delete

# 2. Quick setup with bootstrap
app = FastAPI()
user_accessor = ModelAccessor(User, "users")

bootstrap(
    app,
    accessors=[user_accessor],
    database_url="sqlite:///./my_app.db",
    create_tables=True
)
"""

BOOTSTRAP = """
class Product(SQLModel, table=True):  # supplied
    id: Optional[int] = Field(default=None, primary_key=True)  # supplied
    name: str = ""  # supplied

from fastapi import FastAPI
from vstorage_core.bootstrap import bootstrap
from vstorage_core.accessor import ModelAccessor

app = FastAPI()

# Define your accessors
user_accessor = ModelAccessor(User, "users")
product_accessor = ModelAccessor(Product, "products")

# Bootstrap the entire system
bootstrap(
    app,
    accessors=[user_accessor, product_accessor],
    database_url="sqlite:///./my_app.db",
    create_tables=True,
    max_records_per_model=100,
    enable_db_router=True
)
"""

CSV_EXPORT = """
# Export all tables as CSV
response = requests.get("http://localhost:8000/db/export.zip")
with open("backup.zip", "wb") as f:
    f.write(response.content)
"""

BACKUP = """
# Create a complete database backup
response = requests.get("http://localhost:8000/db/backup.sqlite")
with open("backup.sqlite", "wb") as f:
    f.write(response.content)
"""

RESTORE = """
# Restore from a backup file
with open("backup.sqlite", "rb") as f:
    files = {"file": ("backup.sqlite", f, "application/x-sqlite3")}
    response = requests.post(
        "http://localhost:8000/db/restore",
        files=files,
        params={"integrity_check": True, "dry_run": False}
    )
"""

DATABASE_MANAGEMENT = """
from vstorage_core import database

# Configure database URL (must be called before first use)
database.set_database_url("sqlite:///./my_app.db")

# Get the engine
engine = database.get_engine()

# Use transactions for atomic operations
with database.transaction() as session:
    # All operations in this block are atomic
    user1 = user_accessor.insert(User(name="Alice",
        email="alice@example.com"  # supplied
    ), actor="system")
    user2 = user_accessor.insert(User(name="Bob",
        email="bob@example.com"  # supplied
    ), actor="system")
    # If any operation fails, both are rolled back
"""

MODEL_ACCESSORS = """
class MyModel(SQLModel, table=True):  # supplied
    id: Optional[int] = Field(default=None, primary_key=True)  # supplied
    text: str = ""  # supplied
    deleted_at: Optional[datetime] = None  # supplied
SQLModel.metadata.create_all(database.get_engine())  # supplied

# Create accessor for your model
accessor = ModelAccessor(MyModel, "component_name")

# Basic CRUD operations
obj = accessor.insert(MyModel(id=123, text="first"), actor="user")
obj = accessor.get(123)
updated_obj = MyModel(id=123, text="second")  # supplied
obj = accessor.save(updated_obj, actor="user")
success = accessor.delete(123, actor="user")

# Batch operations
objects = accessor.insert_many([MyModel(id=456), MyModel(id=457)], actor="user")
deleted_count = accessor.delete_many([123, 456], actor="user")

# Soft delete operations
success = accessor.restore(123, actor="user")  # Only for models with deleted_at
"""

LIFECYCLE_HOOKS = """
accessor = ModelAccessor(User, "users")  # supplied

@accessor.before_insert()
def validate_email(session, instance):
    \"\"\"Enforce schema-level validation (safe here).\"\"\"
    if not instance.email or "@" not in instance.email:
        raise ValueError("Invalid email")

@accessor.after_insert()
def log_creation(session, instance):
    \"\"\"Lightweight side-effect: write to a log or metrics system.\"\"\"
    print(f"Row created in {session.bind.url}: {instance}")
"""

AUDIT_TRAILS = """
from vstorage_core.audit import AuditLog
from sqlmodel import select

# Audit logs are automatically created for all operations
with database.transaction() as session:
    # This operation will be audited
    user = user_accessor.insert(User(name="Alice",
        email="alice@example.com"  # supplied
    ), actor="admin")

    # Query audit logs
    logs = session.exec(select(AuditLog).where(AuditLog.component == "users")).all()
    for log in logs:
        print(f"{log.timestamp}: {log.operation} by {log.actor}")
        print(f"  Before: {log.before}")
        print(f"  After: {log.after}")
"""

CRUD_ROUTER = """
from vstorage_rest.router_model import build_crud_router
from fastapi import FastAPI

app = FastAPI()

# Create router for User model
user_router = build_crud_router(user_accessor)
app.include_router(user_router)
"""

DB_ROUTER = """
from vstorage_rest.router_database import build_db_router

app.include_router(build_db_router())
"""

REST_USAGE = """
import httpx as requests

# Create user, X-User is the user who will be blamed in the audit log: Operator, Supervisor, Admin, etc.
response = requests.post(
    "http://localhost:8000/users/",
    json={"name": "Alice", "email": "alice@example.com"},
    headers={"X-User": "admin"}
)
user = response.json()

# Update user
response = requests.put(
    f"http://localhost:8000/users/{user['id']}",
    json={"name": "Alice Smith"},
    headers={"X-User": "admin"}
)

# List users
response = requests.get("http://localhost:8000/users/")
users = response.json()

# Soft delete user
requests.delete(f"http://localhost:8000/users/{user['id']}", headers={"X-User": "admin"})

# Restore user
requests.post(f"http://localhost:8000/users/{user['id']}/restore", headers={"X-User": "admin"})
"""

AUDIT_OVER_HTTP = """
# Query audit logs with filters
response = requests.get("http://localhost:8000/db/audit", params={
    "component": "users",
    "operation": "create",
    "actor": "admin",
    "since": "2023-01-01T00:00:00Z",
    "limit": 100,
    "offset": 0
})

audit_logs = response.json()
"""

DIAGRAM = """
# Get database schema as SVG diagram
response = requests.get("http://localhost:8000/db/diagram.svg")
"""

AUDIT_QUERIES = """
from vstorage_core.audit import AuditLog
from sqlmodel import select

# Get all audit logs for a component
logs = session.exec(select(AuditLog).where(AuditLog.component == "users")).all()
by_component = logs  # supplied

# Get audit logs for a specific record
logs = session.exec(select(AuditLog).where(AuditLog.record_id == 123)).all()
by_record = logs  # supplied

# Get audit logs by operation type
logs = session.exec(select(AuditLog).where(AuditLog.operation == "create")).all()
by_operation = logs  # supplied

# Get audit logs by actor
logs = session.exec(select(AuditLog).where(AuditLog.actor == "admin")).all()
"""


class Readme:
    """One namespace for the blocks, as a reader who types them one after another has it."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "readme", "requests": httpx}
        self.address = "http://localhost:8000"

    def run(self, block: str) -> None:
        exec(
            compile(block.replace("http://localhost:8000", self.address), "README.md", "exec", dont_inherit=True),
            self.names,
        )

    def __getattr__(self, name: str) -> Any:
        return self.names[name]


@pytest.fixture(scope="module")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Readme]:
    """What the first two blocks leave: models, accessors and an app, on `my_app.db` in a folder of its own."""
    tables, folder, before = set(SQLModel.metadata.tables), tmp_path_factory.mktemp("readme"), Path.cwd()
    os.chdir(folder)
    with Storage("sqlite://", entry_points=[]) as unused, use_default_storage(unused):
        readme = Readme()
        readme.run(BASIC_USAGE)
        readme.run(BOOTSTRAP)
        yield readme
        default_storage().close()
    os.chdir(before)
    # Tests of other modules must not get these tables.
    for name in set(SQLModel.metadata.tables) - tables:
        SQLModel.metadata.remove(SQLModel.metadata.tables[name])


@pytest.fixture
def readme(namespace: Readme) -> Readme:
    """The namespace, its database empty."""
    with namespace.database.transaction() as session:
        for table in reversed(SQLModel.metadata.sorted_tables):
            if table.name in ("user", "product", "auditlog"):
                session.execute(table.delete())
    namespace.user_accessor = ModelAccessor(namespace.User, "users")
    return namespace


@pytest.fixture
def served(readme: Readme) -> Iterator[Readme]:
    """The namespace, its app on a free port."""
    config = uvicorn.Config(readme.app, host="127.0.0.1", port=0, log_level="warning")
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    # Now, or a request that is faster than the server's start is refused.
    socket.listen()
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    readme.address = f"http://localhost:{socket.getsockname()[1]}"
    yield readme
    server.should_exit = True
    thread.join(10)
    socket.close()


def routes(app: FastAPI) -> set[str]:
    """Methods and paths, as the README writes them: whatever a path's parameter is called, it is the record's id."""
    paths = app.openapi()["paths"]
    return {
        f"{method.upper()} {re.sub(r'{[^}]*}', '{id}', path)}" for path, methods in paths.items() for method in methods
    }


def test_basic_usage_and_bootstrap(readme):
    assert Path("my_app.db").exists()
    assert {"GET /users/", "GET /products/", "GET /users/{id}", "GET /db/health"} <= routes(readme.app)


def test_csv_export(served):
    served.user_accessor.insert(served.User(name="Alice", email="alice@example.com"))
    served.run(CSV_EXPORT)
    with zipfile.ZipFile("backup.zip") as archive:
        names = [name for name in archive.namelist() if name.endswith("user.csv")]
        rows = list(csv.DictReader(io.StringIO(archive.read(names[0]).decode("utf-8-sig"))))
        assert {"auditlog.csv", "product.csv", "user.csv"} <= {name.split("/")[-1] for name in archive.namelist()}
    assert [(row["id"], row["name"], row["email"]) for row in rows] == [(rows[0]["id"], "Alice", "alice@example.com")]


def test_backup_and_restore(served):
    alice = served.user_accessor.insert(served.User(name="Alice", email="alice@example.com"))
    served.run(BACKUP)
    connection = sqlite3.connect("backup.sqlite")
    assert connection.execute("SELECT name FROM user").fetchall() == [("Alice",)]
    connection.close()
    served.user_accessor.update(alice.id, name="Mallory")
    served.user_accessor.insert(served.User(name="Bob", email="bob@example.com"))
    served.run(RESTORE.replace("params=", 'headers={"X-User": "admin"}, params='))
    assert served.response.status_code == 200, served.response.text
    assert served.response.json()["restored"] is True
    assert [user.name for user in served.user_accessor.all()] == ["Alice"]


def test_database_management(readme):
    readme.run(DATABASE_MANAGEMENT)
    assert readme.engine is readme.database.get_engine()
    assert [user.name for user in readme.user_accessor.all()] == ["Alice", "Bob"]


def test_model_accessors(readme):
    readme.run(MODEL_ACCESSORS)
    assert readme.obj.text == "second"
    assert readme.deleted_count == 1
    assert readme.success is True
    assert [record.id for record in readme.accessor.all()] == [123, 457]


def test_lifecycle_hooks(readme, capsys):
    readme.run(LIFECYCLE_HOOKS)
    with pytest.raises(ValueError, match="Invalid email"):
        readme.accessor.insert(readme.User(name="Alice", email="nobody"))
    readme.accessor.insert(readme.User(name="Alice", email="alice@example.com"))
    assert "my_app.db: " in capsys.readouterr().out
    assert readme.accessor.count() == 1


def test_audit_trails(readme, capsys):
    readme.run(AUDIT_TRAILS)
    assert [(log.operation, log.actor, log.before, log.after["name"]) for log in readme.logs] == [
        ("create", "admin", None, "Alice")
    ]
    assert ": create by admin\n  Before: None\n  After: {" in capsys.readouterr().out


def test_routers_without_bootstrap(readme):
    readme.names["app"], app = None, readme.app
    try:
        readme.run(CRUD_ROUTER)
        readme.run(DB_ROUTER)
        served = routes(readme.app)
    finally:
        readme.names["app"] = app
    assert served >= {
        "GET /users/",
        "GET /users/{id}",
        "POST /users/",
        "PUT /users/{id}",
        "DELETE /users/{id}",
        "POST /users/{id}/restore",
        "GET /db/health",
        "GET /db/audit",
        "GET /db/diagram.svg",
        "GET /db/export.zip",
        "GET /db/backup.sqlite",
        "POST /db/restore",
    }


def test_rest_usage_and_audit_over_http(served):
    served.run(REST_USAGE)
    assert [(user["name"], user["email"]) for user in served.users] == [("Alice Smith", "alice@example.com")]
    assert served.user_accessor.get(served.user["id"]).name == "Alice Smith"
    with served.database.use_session() as session:
        logs = session.exec(select(AuditLog).order_by(AuditLog.id)).all()
    assert [log.operation for log in logs] == ["create", "update", "soft_delete", "restore"]
    assert {log.actor for log in logs} == {"admin"}

    served.run(AUDIT_OVER_HTTP)
    assert [(log["operation"], log["record_id"]) for log in served.audit_logs] == [("create", served.user["id"])]
    query = "component=users&operation=create&actor=admin&limit=100"
    assert httpx.get(f"{served.address}/db/audit?{query}").json() == served.audit_logs


def test_schema_visualization(served):
    served.run(DIAGRAM)
    assert served.response.headers["content-type"].startswith("image/svg+xml")
    assert "<svg" in served.response.text
    for name in ("user", "product", "deleted_at"):
        assert name in served.response.text


def test_querying_audit_logs(readme):
    readme.user_accessor.insert(readme.User(id=123, name="Alice", email="a@example.com"), actor="admin")
    readme.user_accessor.update(123, name="Alice Smith")
    with readme.database.use_session() as session:
        readme.names["session"] = session
        readme.run(AUDIT_QUERIES)
    found = [len(logs) for logs in (readme.by_component, readme.by_record, readme.by_operation, readme.logs)]
    assert found == [2, 2, 1, 1]


def test_the_api_reference_names_parameters_that_exist():
    from vstorage_core import bootstrap, database
    from vstorage_rest.router_database import build_db_router
    from vstorage_rest.router_model import build_crud_router

    def defaults(function: Any) -> dict[str, Any]:
        return {name: parameter.default for name, parameter in inspect.signature(function).parameters.items()}

    documented = {
        "accessors": inspect.Parameter.empty,
        "database_url": None,
        "create_tables": True,
        "max_records_per_model": 5,
        "enable_db_router": True,
    }
    assert documented.items() <= defaults(bootstrap).items()
    assert {"max_records": 100}.items() <= defaults(build_crud_router).items()
    assert {"audit_default_limit": 100, "audit_max_limit": 1000}.items() <= defaults(build_db_router).items()
    assert defaults(database.use_session) == {"session": None}
    for method, names in {
        "get": ["id", "include_deleted"],
        "all": ["include_deleted"],
        "insert": ["actor"],
        "save": ["actor"],
        "delete": ["id", "actor"],
        "restore": ["id", "actor"],
        "insert_many": ["actor"],
        "delete_many": ["ids", "actor"],
    }.items():
        assert set(names) <= set(defaults(getattr(ModelAccessor, method)))
    assert list(inspect.signature(ModelAccessor).parameters)[:2] == ["model", "component"]
    assert [name for name in ("timestamp", "component", "record_id", "operation", "actor", "before", "after")
            if name not in AuditLog.model_fields] == []  # fmt: skip
