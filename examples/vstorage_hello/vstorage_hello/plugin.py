"""What the plugin contributes, for pluggy. Each function only translates; the work is done in greeting.py."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from sqlmodel import SQLModel

from vstorage_core import Exporter, Storage, hookimpl, with_defaults
from vstorage_hello.greeting import GreetingOptions, HelloSettings, refuse_rude_names, write_greeting

if TYPE_CHECKING:
    from fastapi import APIRouter


@hookimpl
def vstorage_register_exporters(storage: Storage) -> Iterator[Exporter]:
    yield Exporter(
        name="hello",
        filename="hello.txt",
        media_type="text/plain",
        write=write_greeting,
        options=with_defaults(GreetingOptions, storage.settings("hello", HelloSettings)),
        summary="Greet every table",
    )


@hookimpl
def vstorage_before_insert(instance: SQLModel) -> None:
    refuse_rude_names(instance)


@hookimpl
def vstorage_register_routers(storage: Storage) -> Iterator[APIRouter]:
    from vstorage_hello.router import build_hello_router

    yield build_hello_router(storage)
