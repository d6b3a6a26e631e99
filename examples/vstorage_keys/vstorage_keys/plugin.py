"""What the plugin contributes, for pluggy. Each function only translates; the work is done in keyring.py."""

from __future__ import annotations

from pathlib import Path

from fastapi import HTTPException, Request
from pydantic import BaseModel, ConfigDict

from vstorage_core import Storage, hookimpl
from vstorage_keys.keyring import KeyRing


class KeySettings(BaseModel):
    """The `keys` section of a storage's configuration; a machine without it must not start unguarded."""

    model_config = ConfigDict(extra="forbid")

    file: Path


@hookimpl
def vstorage_startup(storage: Storage) -> None:
    storage.extensions["keys"] = KeyRing(storage.settings("keys", KeySettings).file)


@hookimpl
def vstorage_authenticate(storage: Storage, request: Request) -> str:
    name: str | None = storage.extensions["keys"].name_of(request.headers.get("x-api-key", ""))
    if name is None:
        raise HTTPException(401, "Send a known key in the header X-API-Key", {"WWW-Authenticate": "ApiKey"})
    return name


@hookimpl
def vstorage_authorize(storage: Storage, actor: str, action: str, component: str) -> bool | None:
    permits: bool | None = storage.extensions["keys"].permits(actor, action, component)
    return permits
