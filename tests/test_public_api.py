"""What the project promises as a whole: names, versions, docs, layers, types."""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from run_readme import Block, blocks_of

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "pyproject.toml").exists())
PACKAGES = ["vstorage_core", *PLUGINS, "vstorage_hello"]
FOLDERS = {
    "vstorage_core": ROOT / "vstorage_core",
    "vstorage_hello": ROOT / "examples" / "vstorage_hello" / "vstorage_hello",
    **{name: ROOT / "plugins" / name / name for name in PLUGINS},
}
MODULES = [path for folder in FOLDERS.values() for path in sorted(folder.rglob("*.py"))]
DOCUMENTS = [
    ROOT / "README.md",
    *sorted((ROOT / "plugins").glob("*/README.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Names


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_and_names_what_there_is(package):
    module = importlib.import_module(package)
    names = list(getattr(module, "__all__", []))
    assert names == sorted(names)
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(module, name)] == []


def test_all_of_the_core_is_complete():
    import vstorage_core

    public = {
        name
        for name, value in vars(vstorage_core).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert public == set(vstorage_core.__all__)


def test_every_exception_is_public_and_stands_in_the_tree():
    import vstorage_core
    from vstorage_core import errors

    own = {
        name for name, value in vars(errors).items() if isinstance(value, type) and value.__module__ == errors.__name__
    }
    assert own <= set(vstorage_core.__all__)
    drawn = re.findall(r"^[│ ]*(?:[├└]── )?(\w+)", errors.__doc__.split("\n\n", 1)[1], re.M)
    assert sorted(drawn) == sorted(own)


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("package", PACKAGES)
def test_every_package_is_typed(package):
    assert (FOLDERS[package] / "py.typed").exists()


# Versions


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_all_distributions_carry_one_version_and_are_pinned_to_it():
    import vstorage_core

    core = project(ROOT)
    plugins = [project(ROOT / "plugins" / name) for name in PLUGINS]
    version = core["version"]
    assert vstorage_core.__version__ == version
    assert {plugin["name"]: plugin["version"] for plugin in plugins} == dict.fromkeys(
        (name.replace("_", "-") for name in PLUGINS), version
    )
    for plugin in plugins:
        assert f"vstorage-core=={version}" in plugin["dependencies"]
        assert plugin["requires-python"] == core["requires-python"]
    extras = core["optional-dependencies"]
    # It comes with the file formats that build on it.
    chosen = [name for name in PLUGINS if name != "vstorage_transfer"]
    for name in chosen:
        assert extras[name.removeprefix("vstorage_")] == [f"{name.replace('_', '-')}=={version}"]
    small = [name for name in chosen if name != "vstorage_parquet"]
    assert extras["all"] == sorted(f"{name.replace('_', '-')}=={version}" for name in small)
    for plugin in plugins:
        for dependency in plugin["dependencies"]:
            assert not dependency.startswith("vstorage-") or dependency.endswith(f"=={version}")


def test_the_changelog_knows_the_version():
    assert f"## {project(ROOT)['version']}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# Hooks


def hook_signatures() -> dict[str, str]:
    """`name(arguments)` of every hook by name, of all packages that bring some."""
    found = {}
    for package in PACKAGES:
        if (FOLDERS[package] / "hookspecs.py").exists():
            for name, function in vars(importlib.import_module(f"{package}.hookspecs")).items():
                if hasattr(function, "vstorage_spec"):
                    assert inspect.getdoc(function), f"{name} has no docstring"
                    found[name] = f"{name}({', '.join(inspect.signature(function).parameters)})"
    return found


def test_every_hook_is_documented_with_its_exact_arguments_and_no_other_is():
    documented = re.findall(r"^### `(vstorage_\w+\([^)]*\))`$", (ROOT / "docs" / "hooks.md").read_text(), re.M)
    assert sorted(documented) == sorted(hook_signatures().values())


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_documents_name_no_hook_that_does_not_exist(path):
    """Neither misspelled nor with an argument that it has not."""
    signatures = hook_signatures()
    for name, arguments in re.findall(r"def (vstorage_\w+)\(([^)]*)\)", path.read_text(encoding="utf-8")):
        if name not in signatures:
            # A document may show a hook that a plugin brings itself.
            assert re.search(rf"@hookspec\s+def {name}\(", path.read_text(encoding="utf-8")), name
            continue
        known = re.findall(r"\w+", signatures[name].partition("(")[2])
        used = [argument.split(":")[0].strip() for argument in arguments.split(",") if argument.strip()]
        assert set(used) - {"self"} <= set(known), f"{name}({arguments})"


# Layers and types


@pytest.mark.sources
def test_the_layers_hold():
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


TYPED = """
from typing import Any

from sqlmodel import Field, SQLModel
from vstorage_core import Change, ModelAccessor, Storage


class User(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    name: str


storage = Storage("sqlite://")
users = ModelAccessor(User, "users", storage=storage)
reveal_type(users)
reveal_type(users.get(1))
reveal_type(users.all())
reveal_type(users.find(User.id == 1))
reveal_type(users.iterate())
reveal_type(users.insert(User(name="Ana")))
reveal_type(users.insert_many([User(name="Ana")]))
reveal_type(users.save(User(name="Ana")))
reveal_type(users.update(1, name="Anna"))
reveal_type(users.delete(1))
reveal_type(users.delete_many([1]))
reveal_type(users.restore(1))
reveal_type(users.count())
reveal_type(users.exists(1))


@users.before_update()
def check(instance: User, before: dict[str, Any]) -> None: ...


@users.after_commit()
def tell(changes: list[Change]) -> None: ...


reveal_type(check)
with storage.transaction() as session:
    reveal_type(session)
"""


def test_a_strict_type_checker_knows_what_accessors_give(tmp_path):
    (tmp_path / "typed.py").write_text(TYPED)
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file", os.devnull, "typed.py"],
        env={**os.environ, "MYPY_CACHE_DIR": str(ROOT / ".mypy_cache")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    revealed = [re.sub(r"\w+(\.\w+)*\.", "", text) for text in re.findall(r'Revealed type is "(.*)"', done.stdout)]
    assert revealed == [
        "ModelAccessor[User]",
        "User | None",
        "list[User]",
        "list[User]",
        "Iterator[User]",
        "User",
        "list[User]",
        "User",
        "User | None",
        "bool",
        "int",
        "bool",
        "int",
        "bool",
        "def (instance: User, before: dict[str, Any])",
        "Session",
    ]


# Documents


def languages_of(path: Path) -> list[str]:
    """Which blocks of a document run: everywhere Python, and the commands of what is written for beginners too."""
    return ["python", "console", "sh"] if path.parent in (ROOT, ROOT / "docs") else ["python"]


def blocks_that_count(path: Path) -> list[Block]:
    return [block for block in blocks_of(path) if block.language in languages_of(path)]


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if blocks_that_count(path)], ids=name_of)
def test_the_blocks_of_a_document_run_as_printed(path, tmp_path):
    if any("$ curl" in block.code for block in blocks_that_count(path)) and not shutil.which("curl"):
        pytest.skip("there is no curl on this machine")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("VSTORAGE_")}
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error::DeprecationWarning", str(Path(__file__).with_name("run_readme.py"))),
            *(str(path), *languages_of(path)),
        ],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


NOT_RUN = [(path, block) for path in DOCUMENTS for block in blocks_that_count(path) if block.not_run is not None]


@pytest.mark.parametrize(("path", "block"), NOT_RUN, ids=[f"{name_of(path)}:{block.line}" for path, block in NOT_RUN])
def test_a_block_that_is_not_run_says_why_and_is_at_least_python(path: Path, block: Block):
    if block.language == "python":
        compile(block.code, name_of(path), "exec", dont_inherit=True)
    assert block.not_run
    pytest.skip(block.not_run)


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_the_links_of_a_document_lead_somewhere(path):
    for target in re.findall(r"\]\((?!https?:|mailto:|#)([^)#\s]+)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), target


def test_no_document_is_empty():
    assert [name_of(path) for path in DOCUMENTS if path.stat().st_size < 200] == []
