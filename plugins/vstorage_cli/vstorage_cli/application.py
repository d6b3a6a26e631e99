"""What a module of the user's offers: accessors, table models, a web application, a storage."""

from __future__ import annotations

import importlib
import inspect
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from sqlmodel import SQLModel

from vstorage_core import AuditLog, ConfigurationError, ModelAccessor, Storage
from vstorage_core.database import default_storage

_WHAT_COUNTS = "accessors, table models, a FastAPI application, a Storage, or a function that returns one of them"


@dataclass
class Application:
    """What was found under a name such as `machine` or `machine:app`.

    Attributes:
        name: That name.
        accessors: Those that were found, or else one per table model, named as its table.
        storages: The storages that stand beside them.
        webs: The web applications, anything with `include_router` and `openapi`.
        skipped: A sentence per table model that no accessor can be made for.
    """

    name: str
    accessors: list[ModelAccessor[Any]] = field(default_factory=list)
    storages: list[Storage] = field(default_factory=list)
    webs: list[Any] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def web(self) -> Any | None:
        """The web application, or None without one.

        Raises:
            ConfigurationError: There are several.
        """
        if len(self.webs) > 1:
            raise ConfigurationError(f"{self.name} has {len(self.webs)} web applications; name one after a colon")
        return self.webs[0] if self.webs else None

    def storage(self) -> Storage:
        """The database that the application works on.

        Raises:
            ConfigurationError: It works on several.
        """
        named = self.storages or [accessor.storage for accessor in self.accessors]
        found = list({id(storage): storage for storage in named}.values())
        if len(found) > 1:
            urls = ", ".join(storage.url for storage in found)
            raise ConfigurationError(f"{self.name} has several databases ({urls}); name one with --url")
        return found[0] if found else default_storage()


def load_application(target: str) -> Application:
    """Import `MODULE[:ATTRIBUTE]`, with the current folder importable, and look through it.

    Args:
        target: A module, whose names are looked through; or one of its attributes, which is called when it is a
            plain function. Beside a web application or a storage the module's accessors count.

    Raises:
        ConfigurationError: There is no such module or attribute, importing it fails, or it has nothing of use.
    """
    module_name, _, path = target.partition(":")
    module = _import(module_name)
    whole = _Findings(vars(module).values())
    chosen = _Findings(_attribute(module, path)) if path else whole
    if not chosen.useful:
        raise ConfigurationError(f"{target} has nothing to work with; it needs {_WHAT_COUNTS}")
    webs = chosen.webs
    if len(webs) > 1 and vars(module).get("app") in webs:
        webs = [vars(module)["app"]]
    storages = chosen.storages or ([] if chosen.accessors else whole.storages)
    application = Application(target, chosen.accessors, storages, webs)
    if not application.accessors and not chosen.models:
        application.accessors = whole.accessors
    if not application.accessors:
        for model in chosen.models or whole.models:
            try:
                application.accessors.append(ModelAccessor(model, str(model.__tablename__)))
            except ConfigurationError as error:
                application.skipped.append(str(error))
    return application


class _Findings:
    def __init__(self, objects: Iterable[object]) -> None:
        self.webs: list[Any] = []
        self.accessors: list[ModelAccessor[Any]] = []
        self.storages: list[Storage] = []
        self.models: list[type[SQLModel]] = []
        for found in objects:
            for item in found if isinstance(found, list | tuple | set) else (found,):
                self._sort_in(item)

    def _sort_in(self, item: object) -> None:
        if isinstance(item, ModelAccessor):
            kind: list[Any] = self.accessors
        elif isinstance(item, Storage):
            kind = self.storages
        elif inspect.isclass(item):
            if not issubclass(item, SQLModel) or item is AuditLog or not hasattr(item, "__table__"):
                return
            kind = self.models
        # Not its type: the command line works where no web framework is installed.
        elif hasattr(item, "include_router") and hasattr(item, "openapi"):
            kind = self.webs
        else:
            return
        if not any(item is other for other in kind):
            kind.append(item)

    @property
    def useful(self) -> bool:
        return bool(self.webs or self.accessors or self.storages or self.models)


def _import(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if name.endswith(".py") or "/" in name:
        as_module = name.removesuffix(".py").replace("/", ".").strip(".")
        raise ConfigurationError(f"{name} is a file; give the name of the module: {as_module}")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            raise ConfigurationError(
                f"there is no module {error.name!r}, neither in {folder} nor among the installed packages"
            ) from error
        raise _import_failure(name, error) from error
    # A module of the user's may fail in any way; they must learn where.
    except (Exception, SystemExit) as error:
        raise _import_failure(name, error) from error


def _import_failure(name: str, error: BaseException) -> ConfigurationError:
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if "importlib" not in frame.filename and frame.filename != __file__:
            where = f" ({frame.filename}, line {frame.lineno})"
            if frame.filename.endswith(f"{name.replace('.', '/')}.py"):
                break
    return ConfigurationError(f"module {name!r} cannot be imported: {type(error).__name__}: {error}{where}")


def _attribute(module: ModuleType, path: str) -> list[object]:
    found: Any = module
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            known = [key for key, value in vars(module).items() if _Findings([value]).useful]
            raise ConfigurationError(
                f"module {module.__name__!r} has no attribute {path!r}; what could be named: "
                f"{', '.join(known) or 'nothing'}"
            ) from None
    if inspect.isroutine(found):
        found = _call(found, f"{module.__name__}:{path}")
    return [found]


def _call(factory: Any, name: str) -> object:
    needed = [
        parameter.name
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    if needed:
        raise ConfigurationError(
            f"{name} needs {', '.join(needed)}; only a function without arguments can be called from here"
        )
    try:
        return factory()
    except Exception as error:
        raise ConfigurationError(f"{name}() fails with {type(error).__name__}: {error}") from error
