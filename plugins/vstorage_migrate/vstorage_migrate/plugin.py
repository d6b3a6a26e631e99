"""What vstorage_migrate contributes, for pluggy. Imports Alembic only when it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vstorage_core import Storage, hookimpl

if TYPE_CHECKING:
    import click


@hookimpl
def vstorage_migrate(storage: Storage) -> None:
    from vstorage_migrate.migration import migrate

    migrate(storage)


@hookimpl(optionalhook=True)
def vstorage_register_commands() -> Iterator[click.Command]:
    from vstorage_migrate.command import migrate_command

    yield migrate_command
