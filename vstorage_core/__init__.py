"""Plugin-based storage for machine applications.

from vstorage_core import ModelAccessor, bootstrap

users = ModelAccessor(User, "users")
bootstrap(app, accessors=[users], database_url="sqlite:///./machine.db")
"""

from vstorage_core.accessor import ModelAccessor
from vstorage_core.audit import AuditLog, acting_as
from vstorage_core.bootstrap import bootstrap
from vstorage_core.contributions import (
    Change,
    Exporter,
    Health,
    HealthCheck,
    Importer,
    NoOptions,
    Operation,
    PluginInfo,
    Progress,
    TableExporter,
    report_progress,
    with_defaults,
)
from vstorage_core.database import use_default_storage
from vstorage_core.errors import (
    ConfigurationError,
    ConstraintViolation,
    ImportInProgress,
    ImportRefused,
    InvalidInput,
    InvalidRecord,
    PluginConflictError,
    PluginError,
    RecordDeleted,
    RecordLimitReached,
    StorageBusy,
    StorageError,
    StorageUnavailable,
    TransactionConflict,
    TransactionError,
)
from vstorage_core.hookspecs import hookimpl, hookspec
from vstorage_core.selection import Selection, SelectionOptions
from vstorage_core.storage import Storage

__version__ = "0.1.0"

__all__ = [
    "AuditLog",
    "Change",
    "ConfigurationError",
    "ConstraintViolation",
    "Exporter",
    "Health",
    "HealthCheck",
    "ImportInProgress",
    "ImportRefused",
    "Importer",
    "InvalidInput",
    "InvalidRecord",
    "ModelAccessor",
    "NoOptions",
    "Operation",
    "PluginConflictError",
    "PluginError",
    "PluginInfo",
    "Progress",
    "RecordDeleted",
    "RecordLimitReached",
    "Selection",
    "SelectionOptions",
    "Storage",
    "StorageBusy",
    "StorageError",
    "StorageUnavailable",
    "TableExporter",
    "TransactionConflict",
    "TransactionError",
    "acting_as",
    "bootstrap",
    "hookimpl",
    "hookspec",
    "report_progress",
    "use_default_storage",
    "with_defaults",
]
