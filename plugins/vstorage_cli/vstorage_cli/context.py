"""What every command gets: the installed plugins, and ways to open databases and applications."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import click
from sqlalchemy import make_url
from sqlmodel import SQLModel

from vstorage_cli.application import Application, load_application
from vstorage_cli.catalogue import Catalogue
from vstorage_core import ConfigurationError, Storage, StorageUnavailable, use_default_storage
from vstorage_core.database import default_storage

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def app_option(function: FunctionT) -> FunctionT:
    """Give a command the option `--app`, as an argument of that name."""
    return click.option(
        "--app",
        metavar="MODULE[:NAME]",
        envvar="VSTORAGE_APP",
        help="Where your models and accessors are; without it the tables are as the database has them."
        "  [env var: VSTORAGE_APP]",
    )(function)


def database_options(function: FunctionT) -> FunctionT:
    """Give a command the options `--url` and `--app`, as arguments of the same names."""
    url = click.option(
        "--url",
        metavar="URL",
        help="The database, e.g. sqlite:///machine.db.  [default: the one that --app opens,"
        " $VSTORAGE_DATABASE_URL, or sqlite:///./storage.db]",
    )
    return url(app_option(function))


class CommandContext:
    """The `click.pass_obj` of all commands, also of those that plugins contribute."""

    @cached_property
    def catalogue(self) -> Catalogue:
        """What the installed plugins provide; without the broken ones."""
        return Catalogue()

    @contextmanager
    def open_application(self, target: str, url: str | None = None) -> Iterator[Application]:
        """Import `MODULE[:ATTRIBUTE]` to run it on its own database or the one of the URL; closes that at the end.

        Raises:
            ConfigurationError: It cannot be imported, has nothing of use, or opens another database than `url`.
            PluginError: An installed plugin is broken.
        """
        self.catalogue.refuse_broken()
        with ExitStack() as stack:
            named = Storage(url) if url is not None else None
            if named is not None:
                stack.enter_context(use_default_storage(named))
            application = load_application(target)
            storage = stack.enter_context(application.storage())
            if named is not None and storage is not named:
                raise ConfigurationError(f"{target} opens a database of its own, {storage.url}; leave out --url")
            with _naming(storage):
                yield application

    @contextmanager
    def open_storage(
        self, url: str | None = None, app: str | None = None, *, create: bool = False
    ) -> Iterator[Storage]:
        """A database that exists, with its tables known from the application or else from the database itself.

        Args:
            url: By default the application's database, or else what `Storage()` opens.
            app: `MODULE[:ATTRIBUTE]` with models and accessors.
            create: Create the database and its tables where they are missing; needs `app`.

        Raises:
            ConfigurationError: The URL or the application cannot work.
            PluginError: An installed plugin is broken.
            StorageUnavailable: There is no such database.
        """
        self.catalogue.refuse_broken()
        if create and app is None:
            raise ConfigurationError("to create a database its tables must be known; name your models with --app")
        with ExitStack() as stack:
            named = Storage(url) if url is not None or app is None else None
            if named is not None:
                stack.enter_context(use_default_storage(named))
            application = Application("") if app is None else load_application(app)
            storage = named or application.storage()
            for accessor in application.accessors:
                storage.register(accessor.bound_to(storage))
            # The application may have opened a database of its own while it was imported.
            stack.callback(default_storage().close)
            stack.enter_context(storage)
            with _naming(storage):
                if create:
                    storage.create_tables()
                else:
                    _refuse_missing(storage)
                if app is None:
                    with storage.snapshot() as connection:
                        SQLModel.metadata.reflect(connection)
                yield storage


@contextmanager
def _naming(storage: Storage) -> Iterator[None]:
    """Say which database it is that cannot be used."""
    try:
        yield
    except StorageUnavailable as error:
        raise type(error)(f"{storage.url}: {error}") from error.__cause__


def database_file(storage: Storage) -> Path | None:
    """The file of the database, when it is one."""
    url = make_url(storage.url)
    database = url.database or ""
    if url.get_backend_name() != "sqlite" or database in ("", ":memory:") or database.startswith("file:"):
        return None
    return Path(database)


def _refuse_missing(storage: Storage) -> None:
    # SQLite would create an empty one.
    file = database_file(storage)
    if file is not None and not file.exists():
        raise StorageUnavailable("there is no such file; name the database with --url or VSTORAGE_DATABASE_URL")
