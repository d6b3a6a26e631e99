"""The lifecycle hooks of one accessor: its decorators, and how they run in one ordered call with the plugins'."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

from sqlmodel import Session, SQLModel

from vstorage_core.audit import current_provenance
from vstorage_core.contributions import Change
from vstorage_core.errors import ConfigurationError
from vstorage_core.storage import Storage

Event = Literal[
    "before_insert", "after_insert", "before_update", "after_update",
    "before_delete", "after_delete", "before_restore", "after_restore",
]  # fmt: skip
WriteOperation = Literal["insert", "update", "delete", "restore"]
_HOOKS_OF: dict[WriteOperation, tuple[str, str, str, str]] = {
    operation: (
        f"before_{operation}",
        f"after_{operation}",
        f"vstorage_before_{operation}",
        f"vstorage_after_{operation}",
    )
    for operation in get_args(WriteOperation)
}
HookT = TypeVar("HookT", bound=Callable[..., None])
CommitListenerT = TypeVar("CommitListenerT", bound=Callable[[list[Change]], None])


class LifecycleHooks:
    """What runs around the writes of an accessor.

    Attributes:
        commit_listeners: Functions to call after a commit, as decorated.
    """

    def __init__(self) -> None:
        self._listeners: dict[str, list[Callable[..., None]]] = {}
        self.commit_listeners: list[Callable[[list[Change]], None]] = []

    @property
    def storage(self) -> Storage:
        """The database, whose plugins' hooks run as well."""
        raise NotImplementedError

    def share_hooks_of(self, other: LifecycleHooks) -> None:
        """Run the same functions as `other`, those decorated later too."""
        self._listeners = other._listeners
        self.commit_listeners = other.commit_listeners

    def before_insert(self) -> Callable[[HookT], HookT]:
        """Decorate a function to run before each insert, as `(session, instance)` or with named hook arguments."""
        return self._decorator("before_insert")

    def after_insert(self) -> Callable[[HookT], HookT]:
        """Decorate a function to run after each insert, in its transaction."""
        return self._decorator("after_insert")

    def before_update(self) -> Callable[[HookT], HookT]:
        """Decorate a function to run before each update; may name `before`, the stored values."""
        return self._decorator("before_update")

    def after_update(self) -> Callable[[HookT], HookT]:
        """Decorate a function to run after each update, in its transaction."""
        return self._decorator("after_update")

    def before_delete(self) -> Callable[[HookT], HookT]:
        """Decorate a function to run before each delete and soft delete."""
        return self._decorator("before_delete")

    def after_delete(self) -> Callable[[HookT], HookT]:
        """Decorate a function to run after each delete and soft delete, in its transaction."""
        return self._decorator("after_delete")

    def before_restore(self) -> Callable[[HookT], HookT]:
        """Decorate a function to run before a soft-deleted record is restored."""
        return self._decorator("before_restore")

    def after_restore(self) -> Callable[[HookT], HookT]:
        """Decorate a function to run after a soft-deleted record was restored, in its transaction."""
        return self._decorator("after_restore")

    def after_commit(self) -> Callable[[CommitListenerT], CommitListenerT]:
        """Decorate a function to run after each committed transaction that changed this component.

        It gets the list of changes, outside the transaction: the data is saved, and raising is only logged.
        """

        def register(listener: CommitListenerT) -> CommitListenerT:
            self._require_plain_function(listener)
            self.commit_listeners.append(listener)
            return listener

        return register

    def _decorator(self, event: Event) -> Callable[[HookT], HookT]:
        def register(function: HookT) -> HookT:
            self._require_plain_function(function)
            self._listeners.setdefault(event, []).append(self._by_name(event, function))
            return function

        return register

    def _by_name(self, event: Event, function: Callable[..., None]) -> Callable[..., None]:
        """`function` as pluggy calls it: with the arguments of the event, by name."""
        known = ["accessor", "session", "instance", "actor", *(["before"] if event.endswith("_update") else [])]
        parameters = inspect.signature(function).parameters.values()
        if any(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters):
            names = ", ".join(parameter.name for parameter in parameters)
            raise ConfigurationError(f"{self!r}: {_name_of(function)} must take plain arguments, not ({names})")
        required = [
            parameter.name
            for parameter in parameters
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        ]
        unknown = [name for name in required if name not in known]
        # The original's functions take (session, instance) by position, under any names.
        by_position = [parameter.kind for parameter in parameters] == [inspect.Parameter.VAR_POSITIONAL] or (
            bool(unknown)
            and len(required) == 2
            and all(name in (meant, *unknown) for name, meant in zip(required, ("session", "instance"), strict=True))
        )
        if unknown and not by_position:
            raise ConfigurationError(
                f"{self!r}: {_name_of(function)} has the unknown argument {unknown[0]!r};"
                f" {event} may name {', '.join(known)}"
            )

        def call(**arguments: Any) -> None:
            if by_position:
                function(arguments["session"], arguments["instance"])
            else:
                function(**{name: arguments[name] for name in required})

        if event.endswith("_update"):
            return lambda accessor, session, instance, actor, before: call(
                accessor=accessor, session=session, instance=instance, actor=actor, before=before
            )
        return lambda accessor, session, instance, actor: call(
            accessor=accessor, session=session, instance=instance, actor=actor
        )

    def _require_plain_function(self, function: Callable[..., Any]) -> None:
        if inspect.iscoroutinefunction(function):
            raise ConfigurationError(f"{self!r}: {_name_of(function)} is async; hooks are plain functions")

    def is_hooked(self, *operations: WriteOperation) -> bool:
        """Whether a hook of a plugin or a decorated function waits for one of the operations."""
        listeners, implemented = self._listeners, self.storage.plugin_registry.implemented
        for operation in operations:
            before, after, plugins_before, plugins_after = _HOOKS_OF[operation]
            if listeners and (listeners.get(before) or listeners.get(after)):
                return True
            if plugins_before in implemented or plugins_after in implemented:
                return True
        return False

    def _emit(self, event: Event, session: Session, instance: SQLModel, **extra: Any) -> None:
        caller = getattr(self.storage.plugin_registry.hook, f"vstorage_{event}")
        listeners = self._listeners.get(event, ())
        if listeners or caller.get_hookimpls():
            actor = current_provenance().actor
            arguments = {"accessor": self, "session": session, "instance": instance, "actor": actor, **extra}
            # Of several extra methods pluggy calls the last one first.
            caller.call_extra(listeners[::-1], arguments)


def _name_of(function: Callable[..., Any]) -> str:
    return getattr(function, "__qualname__", repr(function))
