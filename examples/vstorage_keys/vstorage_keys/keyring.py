"""Keys, roles and permissions, in plain code that knows nothing of plugins and of the web."""

from __future__ import annotations

import hashlib
import logging
import threading
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from vstorage_core import ConfigurationError

logger = logging.getLogger("vstorage.keys")


class Key(BaseModel):
    """One key; the file has its digest only, so that who reads the file cannot use it."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(min_length=1, max_length=255)
    role: str
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class KeyFile(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(extra="forbid")

    roles: dict[str, list[str]]
    keys: list[Key]

    @model_validator(mode="after")
    def _roles_are_known(self) -> KeyFile:
        unknown = sorted({key.role for key in self.keys} - set(self.roles))
        if unknown:
            raise ValueError(f"no such role: {', '.join(unknown)}")
        if len({key.name for key in self.keys}) < len(self.keys):
            raise ValueError("two keys have the same name")
        return self


class KeyRing:
    """The keys of a file, read again when it changes.

    Raises:
        ConfigurationError: The file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._read()

    def name_of(self, secret: str) -> str | None:
        """Name of the key, or None if there is no such key."""
        self._refresh()
        return self._names.get(digest_of(secret))

    def permits(self, name: str, action: str, component: str) -> bool | None:
        """Whether the role of the key of that name permits it; None where there is no such key."""
        role = self._roles.get(name)
        if role is None:
            return None
        return any(
            fnmatchcase(f"{action}:{component}", permission if ":" in permission else f"{permission}:*")
            for permission in self._permissions[role]
        )

    def _refresh(self) -> None:
        with self._mutex:
            try:
                if self._path.stat().st_mtime_ns != self._modified:
                    self._read()
            except (OSError, ConfigurationError):
                logger.exception("%s cannot be read; the keys before stay in force", self._path)

    def _read(self) -> None:
        try:
            self._modified = self._path.stat().st_mtime_ns
            content = KeyFile.model_validate_json(self._path.read_bytes())
        except OSError as error:
            raise ConfigurationError(f"the key file {self._path} cannot be read: {error.strerror}") from None
        except ValidationError as error:
            problems = "; ".join(problem["msg"] for problem in error.errors(include_input=False))
            raise ConfigurationError(f"the key file {self._path} is not valid: {problems}") from None
        self._names = {key.sha256: key.name for key in content.keys}
        self._roles = {key.name: key.role for key in content.keys}
        self._permissions = content.roles


def digest_of(secret: str) -> str:
    """What the file has of a key. Keys are random and long, so that one round of SHA-256 is enough."""
    return hashlib.sha256(secret.encode()).hexdigest()
