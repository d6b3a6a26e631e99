"""Settings by section, as given in Python and in the environment, which wins."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from vstorage_core.errors import ConfigurationError, sentence_of

logger = logging.getLogger("vstorage")

SettingsT = TypeVar("SettingsT", bound=BaseModel)


class Configuration:
    """What a storage was configured with, and who has read it."""

    def __init__(self, given: Mapping[str, Mapping[str, Any]]) -> None:
        self._given = dict(given)
        self._read: set[str] = set()

    def section(self, name: str, model: type[SettingsT], overrides: Mapping[str, Any]) -> SettingsT:
        """The settings of a section, checked.

        Raises:
            ConfigurationError: A setting is unknown or not allowed.
        """
        self._read.add(name)
        prefix = f"VSTORAGE_{name.upper()}__"
        environment = {
            variable[len(prefix) :].lower(): value
            for variable, value in os.environ.items()
            if variable.startswith(prefix)
        }
        try:
            return model.model_validate({**self._given.get(name, {}), **environment, **overrides})
        except ValidationError as error:
            raise ConfigurationError(
                f"configuration {name!r}: {sentence_of(error)}; it knows {', '.join(model.model_fields)}"
            ) from None

    def warn_of_unread(self, readers: Iterable[str]) -> None:
        """Log a warning about each section that was given and that nobody reads: its name may be misspelled."""
        variables = (re.fullmatch(r"VSTORAGE_(\w+?)__\w+", name) for name in os.environ)
        given = {*self._given, *(found[1].lower() for found in variables if found)}
        known = {*self._read, *readers}
        for section in sorted(given - known):
            logger.warning(
                "nobody reads the section %r of the configuration; there are %s", section, ", ".join(sorted(known))
            )
