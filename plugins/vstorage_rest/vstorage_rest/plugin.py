"""What vstorage_rest contributes, for pluggy. Imports the web framework only when it is needed."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from vstorage_core import Change, ModelAccessor, Storage, hookimpl
from vstorage_rest import hookspecs as hookspecs
from vstorage_rest.metrics import change_counts

if TYPE_CHECKING:
    import click
    from fastapi import APIRouter


@hookimpl
def vstorage_register_routers(
    storage: Storage, accessors: Sequence[ModelAccessor[Any]], max_records_per_model: int | None, enable_db_router: bool
) -> list[APIRouter]:
    from vstorage_rest.application import build_routers

    return build_routers(storage, accessors, max_records_per_model, enable_db_router)


if importlib.util.find_spec("prometheus_client") is not None:
    # Else nobody could ask for the counts, and each commit would pay for them: a twentieth of an insert.

    @hookimpl
    def vstorage_after_commit(storage: Storage, changes: Sequence[Change]) -> None:
        change_counts(storage).add(changes)


@hookimpl
def vstorage_after_replace(storage: Storage) -> None:
    from vstorage_rest.idempotency import forget_answers

    forget_answers(storage)


@hookimpl(optionalhook=True)
def vstorage_register_commands() -> Iterator[click.Command]:
    from vstorage_rest.serve import serve

    yield serve
