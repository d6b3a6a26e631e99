"""Every exception that vstorage raises on purpose.

StorageError
├── ConfigurationError            a model, accessor, URL or setting that cannot work
│   └── PluginError               a plugin that cannot be loaded
│       └── PluginConflictError   two plugins claim the same name
├── InvalidInput                  (a ValueError) something the caller passed is refused
│   ├── InvalidRecord             values that the model does not allow
│   └── ImportRefused             a file that cannot be imported
├── ConstraintViolation           (a sqlalchemy IntegrityError) the database refuses the row
├── RecordDeleted                 a write to a record that is soft-deleted
├── RecordLimitReached            one record more than the component may hold
├── ImportInProgress              another import is replacing the database
├── TransactionError              a session or transaction used where it cannot be
└── StorageUnavailable            the database cannot be used now: locked, full, unreachable
    └── StorageBusy               other writers held the database for too long
        └── TransactionConflict   other transactions stood in the way: run it again
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy.exc import IntegrityError

ConstraintKind = Literal["unique", "foreign_key", "not_null", "check"]


class StorageError(Exception):
    """Base of all exceptions that vstorage raises on purpose."""


class ConfigurationError(StorageError):
    """A model, accessor, URL or setting cannot work as given."""


class PluginError(ConfigurationError):
    """A plugin cannot be loaded; the message names it and the way out."""


class PluginConflictError(PluginError):
    """Two plugins provide the same thing; the message names both."""


class InvalidInput(StorageError, ValueError):
    """Something the caller passed is refused; nothing was stored."""


class InvalidRecord(InvalidInput):
    """Values that the model does not allow; nothing was stored.

    Attributes:
        component: Name of the accessor's component.
        errors: One mapping per error with `loc` (a tuple that starts with the field's name, or an empty
            one for the whole record), `msg` and `type`, as pydantic reports them, without the input.
    """

    def __init__(self, component: str, errors: Sequence[Mapping[str, Any]]) -> None:
        self.component = component
        self.errors = list(errors)
        details = "; ".join(f"{'.'.join(map(str, error['loc'])) or 'record'}: {error['msg']}" for error in self.errors)
        super().__init__(f"{component}: {details}")


class ImportRefused(InvalidInput):
    """A file cannot be imported; nothing was changed.

    Attributes:
        details: What is wrong, one JSON-able mapping per finding.
    """

    def __init__(self, message: str, details: Sequence[Mapping[str, Any]] = ()) -> None:
        self.details = list(details)
        super().__init__(message)


class ConstraintViolation(StorageError, IntegrityError):
    """The database refuses a row; nothing of the operation was stored.

    Also an `sqlalchemy.exc.IntegrityError`, so code written for plain SQLModel catches it.

    Attributes:
        kind: Which sort of constraint refused it.
        fields: Columns that the constraint names, as far as the database tells.
    """

    def __init__(
        self, kind: ConstraintKind, fields: Sequence[str], message: str, orig: BaseException | None = None
    ) -> None:
        # No statement and no parameters: the message must be fit for a stranger to read.
        IntegrityError.__init__(self, None, None, orig if orig is not None else Exception(message))
        self.kind = kind
        self.name_fields(fields, message)

    def name_fields(self, fields: Sequence[str], message: str) -> None:
        """Tell which fields it is about, once that is known."""
        self.fields = list(fields)
        self.message = message
        self.args = (message,)

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.kind, self.fields, self.message)


class RecordDeleted(StorageError):
    """The record is soft-deleted; restore it before writing to it."""


class RecordLimitReached(StorageError):
    """The component holds as many records as it may."""


class ImportInProgress(StorageError):
    """Another import is replacing the database; nothing was changed by this one."""


class TransactionError(StorageError):
    """A session or transaction was used where it cannot be."""


class StorageUnavailable(StorageError):
    """The database cannot be used now: locked, full, read-only, unreachable.

    Attributes:
        retry_after_seconds: When it makes sense to try again.
    """

    retry_after_seconds = 5


class StorageBusy(StorageUnavailable):
    """Other writers held the database for longer than the deadline; nothing was stored."""

    retry_after_seconds = 1


class TransactionConflict(StorageBusy):
    """Other transactions stood in the way (deadlock, serialization failure) and the database undid this one.

    Accessors run an operation in a transaction of its own again; around more than that, do so yourself.
    """


def sentence_of(error: ValidationError) -> str:
    """What pydantic refuses, per field, without the values: they may be secrets."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    return "; ".join(": ".join(filter(None, (".".join(map(str, each["loc"])), each["msg"]))) for each in problems)
