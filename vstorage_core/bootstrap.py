"""bootstrap(): from accessors to a running storage, and to an application that serves it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vstorage_core.accessor import ModelAccessor
from vstorage_core.database import default_storage, set_database_url, set_default_storage
from vstorage_core.errors import ConfigurationError
from vstorage_core.plugins import LoadedPlugin, routes_of
from vstorage_core.storage import Storage


def bootstrap(
    app: Any = None,
    *,
    accessors: Iterable[ModelAccessor[Any]],
    database_url: str | None = None,
    create_tables: bool = True,
    auto_migrate: bool = False,
    max_records_per_model: int | None = 5,
    enable_db_router: bool = True,
    storage: Storage | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
) -> Storage:
    """Open the database, start the installed plugins, create missing tables, and mount what the plugins serve.

    Args:
        app: Anything with `include_router`, e.g. a FastAPI application; None on a machine without a web API.
        accessors: What the application stores.
        database_url: Becomes the default storage's; default: `VSTORAGE_DATABASE_URL` or `sqlite:///./storage.db`.
        create_tables: Create tables that do not exist; existing ones are never altered.
        auto_migrate: Let a plugin add to existing tables what the models have and they have not, or refuse.
        max_records_per_model: How many records the web API may create per component; None: no limit.
        enable_db_router: Whether the web API has the routes below `/db`.
        storage: Use this one, and leave the default storage alone.
        config: Settings by section for the storage that is opened.

    Returns:
        The storage. Accessors that were made without one use it from now on, unless `storage` was given.

    Raises:
        ConfigurationError: The arguments cannot work together, or two accessors share a component.
        PluginError: A plugin cannot be loaded, or two of them claim the same route.
    """
    if storage is None:
        if config is not None:
            set_default_storage(Storage(database_url, config=config))
        elif database_url is not None:
            set_database_url(database_url)
        storage = default_storage()
    elif database_url is not None or config is not None:
        raise ConfigurationError("give bootstrap either a storage, or a database_url and config to open one")
    bound: dict[str, ModelAccessor[Any]] = {}
    for accessor in accessors:
        if accessor.component in bound:
            raise ConfigurationError(f"two accessors have the component {accessor.component!r}; rename one of them")
        bound[accessor.component] = accessor.bound_to(storage)
        storage.register(bound[accessor.component])
    storage.start()
    if auto_migrate:
        _migrate(storage)
    if create_tables:
        storage.create_tables()
    if app is not None:
        _mount(app, storage, list(bound.values()), max_records_per_model, enable_db_router)
    return storage


def _migrate(storage: Storage) -> None:
    migrations = storage.plugin_registry.separately("vstorage_migrate")
    if not migrations:
        raise ConfigurationError(
            "auto_migrate needs a plugin that changes tables: pip install 'vstorage-core[migrate]',"
            " or call bootstrap without it"
        )
    for _, migrate in migrations:
        migrate(storage=storage)


def _mount(
    app: Any,
    storage: Storage,
    accessors: list[ModelAccessor[Any]],
    max_records_per_model: int | None,
    enable_db_router: bool,
) -> None:
    if not hasattr(app, "include_router"):
        raise ConfigurationError(f"{app!r} has no include_router; give bootstrap a FastAPI application, or no app")
    contributed: list[tuple[LoadedPlugin, Any]] = storage.plugin_registry.collect(
        "vstorage_register_routers",
        storage=storage,
        accessors=accessors,
        max_records_per_model=max_records_per_model,
        enable_db_router=enable_db_router,
    )
    if not contributed:
        raise ConfigurationError(
            "no installed plugin serves a web API: pip install 'vstorage-core[rest]', or call bootstrap without an app"
        )
    # Before anything is mounted: a second route with the same path would never be reached.
    taken = dict(claimed_routes(app))
    mounted: dict[str, list[str]] = {}
    for plugin, router in contributed:
        for claim in map(" ".join, routes_of(router)):
            if claim in taken:
                raise ConfigurationError(
                    f"the route {claim} of {plugin} on {storage.url} is served by {taken[claim]} already;"
                    " use another component or another app"
                )
            taken[claim] = f"{plugin} on {storage.url}"
            mounted.setdefault(plugin.name, []).append(claim)
    for _, router in contributed:
        app.include_router(router)
    app._vstorage_routes = taken
    for name, routes in mounted.items():
        served = storage.plugin_registry.routes.get(name, ())
        storage.plugin_registry.routes[name] = tuple(dict.fromkeys([*served, *routes]))


def claimed_routes(app: Any) -> Mapping[str, str]:
    """Who serves which route of an application, as far as `bootstrap` mounted it; empty before that."""
    claimed: Mapping[str, str] = getattr(app, "_vstorage_routes", {})
    return claimed
