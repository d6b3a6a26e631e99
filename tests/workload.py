"""Clients that write at random, know what each of their operations must leave behind, and tell when it has returned."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from random import Random
from typing import Any, NamedTuple

from models import Counter, User

from vstorage_core import ModelAccessor, Storage, acting_as

# A counter belongs to the client whose number its value ends in; those of nobody are changed by all.
CLIENTS = 100
SHARED = 3


class Effect(NamedTuple):
    """One audit row that an operation must leave; `value` is a user's name or a counter's value afterwards."""

    component: str
    operation: str
    key: int
    value: str | int | None


class Acknowledgement(NamedTuple):
    """What an operation that has returned, blamed on an actor of its own, has done."""

    actor: str
    effects: list[Effect]


class _Known(NamedTuple):
    name: str
    email: str


class _Refused(Exception):
    pass


# Blames what follows on the operation; takes how many audit rows it will leave.
_Blame = Callable[[int], AbstractContextManager[None]]


def share_counters(storage: Storage, run: int) -> Acknowledgement:
    """Insert the counters that all clients share, where there are none yet."""
    counters = ModelAccessor(Counter, "counters", storage=storage)
    actor = f"{run}.shared"
    if counters.count(Counter.value % CLIENTS == 0):
        return Acknowledgement(actor, [])
    with acting_as(actor, reason=f"1 of 1, {SHARED} rows"):
        made = counters.insert_many([Counter(value=0) for _ in range(SHARED)])
    return Acknowledgement(actor, [Effect("counters", "create", counter.id, 0) for counter in made])


class Client:
    """One writer with records of its own, beside the shared counters.

    The reason in its audit rows tells the place of the step in its operation and how many rows the step has, so that
    half an operation can be told from a whole one. Nothing may ever be blamed on an actor that begins with "refused".

    Args:
        number: 1 to 99; it takes over the records of the client who had that number before.
        run: Makes actors and values differ from those of other runs on the same database.
    """

    def __init__(self, storage: Storage, number: int, run: int) -> None:
        self.storage = storage
        self.number = number
        self._random = Random(f"{run}.{number}")
        self._prefix = f"{run}.{number}"
        self._serial = run * 1_000_000
        self._users = ModelAccessor(User, "users", storage=storage)
        self._counters = ModelAccessor(Counter, "counters", storage=storage)
        self._live: dict[int, _Known] = {}
        self._deleted: dict[int, _Known] = {}
        for user in self._users.find(User.age == number, include_deleted=True):
            (self._live if user.deleted_at is None else self._deleted)[user.id] = _Known(user.name, user.email)
        self._own = {counter.id for counter in self._counters.find(Counter.value % CLIENTS == number)}
        self._shared = [counter.id for counter in self._counters.find(Counter.value % CLIENTS == 0)]

    def operate(self) -> Acknowledgement:
        """Do something and come back when it is done: one write, several in a transaction, or some that are undone."""
        self._serial += 1
        actor = f"{self._prefix}.{self._serial}"
        # None: all of it is undone.
        steps = self._random.choice([None, 1, 1, 1, 1, 1, 2, 2, 3, 5])
        effects: list[Effect] = []
        if steps is None:
            self._refuse(actor)
            return Acknowledgement(actor, [])
        with self.storage.transaction() if steps > 1 else nullcontext():
            for step in range(1, steps + 1):
                if steps > 1 and self._random.random() < 0.2:
                    self._refuse(actor)
                effects += self._step(self._blame(actor, f"{step} of {steps}"))
        return Acknowledgement(actor, effects)

    def _blame(self, actor: str, place: str) -> _Blame:
        return lambda rows: acting_as(actor, reason=f"{place}, {rows} rows")

    def _refuse(self, actor: str) -> None:
        known = dict(self._live), dict(self._deleted), set(self._own)
        try:
            with self.storage.transaction():
                for _ in range(2):
                    self._step(self._blame(f"refused {actor}", "1 of 1"))
                raise _Refused
        except _Refused:
            self._live, self._deleted, self._own = known

    def _step(self, blame: _Blame) -> list[Effect]:
        possible: list[Callable[[_Blame], list[Effect]]] = [
            self._insert_users,
            self._insert_counters,
            self._set_shared,
            self._increase_shared,
        ]
        if len(self._live) > 2:
            possible += [self._save_user, self._update_user, self._delete_users]
        if self._deleted:
            possible += [self._restore_user]
        if len(self._own) > 2:
            possible += [self._delete_counters]
        return self._random.choice(possible)(blame)

    def _name(self) -> str:
        self._serial += 1
        return f"{self._prefix}.{self._serial}"

    def _value(self, number: int) -> int:
        self._serial += 1
        # Far apart: increases must not lead to a value that another client sets, whose update would change nothing.
        return (self._serial * CLIENTS + self.number) * CLIENTS * 1000 + number

    def _insert_users(self, blame: _Blame) -> list[Effect]:
        names = [self._name() for _ in range(self._random.choice([1, 1, 1, 4, 12]))]
        new = [User(name=name, email=f"{name}@example.com", age=self.number) for name in names]
        with blame(len(new)):
            made = [self._users.insert(new[0])] if len(new) == 1 else self._users.insert_many(new)
        self._live |= {user.id: _Known(user.name, user.email) for user in made}
        return [Effect("users", "create", user.id, name) for user, name in zip(made, names, strict=True)]

    def _save_user(self, blame: _Blame) -> list[Effect]:
        key, name = self._random.choice(list(self._live)), self._name()
        if self._random.random() < 0.5:
            user = self._users.get(key)
            user.name = name
        else:
            user = User(id=key, name=name, email=self._live[key].email, age=self.number)
        with blame(1):
            self._users.save(user)
        self._live[key] = self._live[key]._replace(name=name)
        return [Effect("users", "update", key, name)]

    def _update_user(self, blame: _Blame) -> list[Effect]:
        key, name = self._random.choice(list(self._live)), self._name()
        with blame(1):
            self._users.update(key, name=name)
        self._live[key] = self._live[key]._replace(name=name)
        return [Effect("users", "update", key, name)]

    def _delete_users(self, blame: _Blame) -> list[Effect]:
        keys = self._random.sample(list(self._live), self._random.randint(1, min(8, len(self._live))))
        with blame(len(keys)):
            assert self._users.delete_many(keys) == len(keys)
        gone = {key: self._live.pop(key) for key in keys}
        self._deleted |= gone
        return [Effect("users", "soft_delete", key, known.name) for key, known in gone.items()]

    def _restore_user(self, blame: _Blame) -> list[Effect]:
        key = self._random.choice(list(self._deleted))
        with blame(1):
            assert self._users.restore(key)
        self._live[key] = self._deleted.pop(key)
        return [Effect("users", "restore", key, self._live[key].name)]

    def _insert_counters(self, blame: _Blame) -> list[Effect]:
        values = [self._value(self.number) for _ in range(self._random.choice([1, 2, 8]))]
        with blame(len(values)):
            made = self._counters.insert_many([Counter(value=value) for value in values])
        self._own |= {counter.id for counter in made}
        return [Effect("counters", "create", counter.id, value) for counter, value in zip(made, values, strict=True)]

    def _delete_counters(self, blame: _Blame) -> list[Effect]:
        keys = self._random.sample(sorted(self._own), self._random.randint(1, min(8, len(self._own))))
        with blame(len(keys)):
            assert self._counters.delete_many(keys) == len(keys)
        self._own -= set(keys)
        return [Effect("counters", "delete", key, None) for key in keys]

    def _set_shared(self, blame: _Blame) -> list[Effect]:
        key, value = self._random.choice(self._shared), self._value(0)
        with blame(1):
            self._counters.update(key, value=value)
        return [Effect("counters", "update", key, value)]

    def _increase_shared(self, blame: _Blame) -> list[Effect]:
        key = self._random.choice(self._shared)
        with self.storage.transaction(), blame(1):
            counter: Any = self._counters.get(key)
            counter.value += CLIENTS
            value = counter.value
            self._counters.save(counter)
        return [Effect("counters", "update", key, value)]
