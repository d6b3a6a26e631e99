"""The `rest` section of a storage's configuration."""

from __future__ import annotations

import os
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, IPvAnyNetwork, SecretStr, field_validator

from vstorage_core import Storage

ADMIN_TOKEN_VARIABLE = "VSTORAGE_ADMIN_TOKEN"  # noqa: S105 (the name of the variable)
MINIMUM_TOKEN_LENGTH = 32


def _split(value: Any) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


class RestSettings(BaseModel):
    """The `rest` section of a storage's configuration: how the web API is protected and limited.

    Attributes:
        admin_token: Who sends it as `Authorization: Bearer …` may use everything below `/db`; at least 32 characters.
        deny_by_default: Refuse whatever no plugin allows, reading and writing records as well.
        trusted_proxies: Addresses or networks; when given, `X-User` is believed from these peers only.
        allowed_origins: Web sites other than this server that may send unsafe requests, e.g. `https://hmi.local`.
        max_body_bytes: Largest JSON body; more is 413.
        max_upload_bytes: Largest file for an importer; more is 413.
        max_page_size: Most records of one list page, and the number when `limit` is not given.
        max_batch_size: Most records of one batch request.
    """

    model_config = ConfigDict(extra="forbid")

    admin_token: SecretStr | None = None
    deny_by_default: bool = False
    trusted_proxies: Annotated[list[IPvAnyNetwork], BeforeValidator(_split)] = []
    allowed_origins: Annotated[list[str], BeforeValidator(_split)] = []
    max_body_bytes: int = Field(default=2_000_000, gt=0)
    max_upload_bytes: int = Field(default=1024**3, gt=0)
    max_page_size: int = Field(default=1000, gt=0)
    max_batch_size: int = Field(default=1000, gt=0)

    @field_validator("admin_token")
    @classmethod
    def _long_enough(cls, token: SecretStr | None) -> SecretStr | None:
        if token is not None and len(token.get_secret_value()) < MINIMUM_TOKEN_LENGTH:
            raise ValueError(f"{ADMIN_TOKEN_VARIABLE} must have at least {MINIMUM_TOKEN_LENGTH} characters")
        return token


def rest_settings(storage: Storage) -> RestSettings:
    """The settings of the storage's web API, read once; the admin token also from `VSTORAGE_ADMIN_TOKEN`.

    Raises:
        ConfigurationError: A setting is unknown or not allowed.
    """
    settings = storage.extensions.get("rest")
    if not isinstance(settings, RestSettings):
        token = os.environ.get(ADMIN_TOKEN_VARIABLE)
        settings = storage.settings("rest", RestSettings, **({"admin_token": token} if token else {}))
        storage.extensions["rest"] = settings
    return settings
