"""Schema changes: what the models have and the database has not is added; everything else is refused with a list."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vstorage_migrate.comparison import alembic_options
    from vstorage_migrate.migration import Migration, MigrationRefused, migrate
    from vstorage_migrate.planning import Plan, Refusal, Step, plan

__all__ = ["Migration", "MigrationRefused", "Plan", "Refusal", "Step", "alembic_options", "migrate", "plan"]

_MODULES = {
    "alembic_options": "comparison",
    **dict.fromkeys(("Migration", "MigrationRefused", "migrate"), "migration"),
    **dict.fromkeys(("Plan", "Refusal", "Step", "plan"), "planning"),
}


def __getattr__(name: str) -> Any:
    # Lazily, so that a machine which has the plugin loads Alembic only to migrate.
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
