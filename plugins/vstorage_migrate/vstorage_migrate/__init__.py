"""Schema changes: what the models have and the database has not is added; everything else is refused with a list."""

from vstorage_migrate.comparison import alembic_options
from vstorage_migrate.migration import Migration, MigrationRefused, migrate
from vstorage_migrate.planning import Plan, Refusal, Step, plan

__all__ = ["Migration", "MigrationRefused", "Plan", "Refusal", "Step", "alembic_options", "migrate", "plan"]
