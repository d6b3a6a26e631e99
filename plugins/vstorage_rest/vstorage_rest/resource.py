"""The records of one accessor as the web serves them: read as rows, sent as JSON, told apart by their ETags."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Generic
from urllib.parse import quote

from fastapi import HTTPException, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from sqlalchemy import JSON, ColumnElement, LargeBinary, select

from vstorage_core import ModelAccessor, Storage
from vstorage_core.records import SOFT_DELETE_FIELD, ModelT, Values, encode
from vstorage_rest.queries import ListStatement
from vstorage_rest.schemas import create_schema, visible_fields


class Resource(Generic[ModelT]):
    """The records of an accessor.

    Attributes:
        max_records: How many live records clients may create; None: no limit.
        visible: Fields that clients get.
    """

    def __init__(self, accessor: ModelAccessor[ModelT], max_records: int | None) -> None:
        self.accessor = accessor
        self.record = accessor.record
        self.visible = list(visible_fields(accessor.record))
        self._is_small = not any(isinstance(column.type, JSON | LargeBinary) for column in self.record.columns.values())
        self._hides_something = len(self.visible) < len(accessor.record.columns)
        self.max_records = max_records
        self._required = [
            name for name, field in create_schema(accessor.record).model_fields.items() if field.is_required()
        ]

    @property
    def storage(self) -> Storage:
        """The database."""
        return self.accessor.storage

    # Reading

    def rows(self, *conditions: ColumnElement[bool], lock: bool = False) -> list[Values]:
        """The stored values of the records for which all conditions hold.

        Args:
            *conditions: SQLAlchemy expressions.
            lock: Keep others from changing them until the transaction ends.
        """
        # The ORM's attributes, so that it adds what models with inheritance need; rows, because objects are slow.
        statement = select(*(getattr(self.accessor.model, name) for name in self.record.columns)).where(*conditions)
        if lock:
            statement = statement.with_for_update()
        with self.storage.use_session() as session:
            return [dict(zip(self.record.columns, row, strict=True)) for row in session.execute(statement).all()]

    def page(self, statement: ListStatement) -> tuple[list[Values], int | None]:
        """The records of a page, and one more if there is one, as values for `records.encode`; how many there are on
        all pages, if that was asked."""
        plan = self.storage.reading_plan(self.accessor.model)
        if plan is None or self.storage.current_scope() is not None:
            with self.storage.use_session() as session:
                found = session.execute(statement.select).all()
                total = None if statement.total is None else session.execute(statement.total).scalar_one()
            return self.record.for_json([dict(zip(statement.names, row, strict=True)) for row in found]), total
        if statement.total is None:
            with self.storage.row_reader() as cursor:
                found = cursor.execute(*statement.prepared(plan)).fetchall()
            return plan.for_json(statement.names, found), None
        # On one connection, both see the same moment.
        with self.storage.reading_connection() as connection:
            found = connection.execute(statement.raw_select).all()
            total = connection.execute(statement.total).scalar_one()
        return plan.for_json(statement.names, found), total

    def find(self, key: Any, *, lock: bool = False) -> Values | None:
        """The stored values of a record, soft-deleted or not."""
        plan = self.storage.reading_plan(self.accessor.model)
        if plan is None:
            return next(iter(self.rows(self.key_column == key, lock=lock)), None)
        # Where rows are read like this, a transaction that writes has locked all of them.
        with self.storage.row_reader() as cursor:
            return plan.select_one(cursor, key)

    def reads_at_once(self) -> bool:
        """Whether `find` would keep an event loop no longer than a short indexed read: it waits for nothing, nobody
        listens, and no field holds bytes or JSON, which may be large."""
        storage = self.storage
        return self._is_small and storage.reads_at_once() and storage.reading_plan(self.accessor.model) is not None

    def existing(self, key: Any, *, include_deleted: bool = False, lock: bool = False) -> Values:
        """The stored values of a record; 404 where there is none or it is soft-deleted."""
        values = self.find(key, lock=lock)
        if values is None:
            raise HTTPException(404, "Not found")
        if is_deleted(values) and not include_deleted:
            raise HTTPException(404, "Not found: it is deleted; restore it first")
        return values

    @property
    def key_column(self) -> Any:
        """The model's key, for conditions."""
        return getattr(self.accessor.model, self.record.key)

    # Answering

    def etag(self, values: Values) -> str:
        """A strong ETag: other values, hidden ones included, have another."""
        return _etag_of(self.record.snapshot(values))

    def respond(self, values: Values, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """The record with its ETag."""
        everything = self.record.snapshot(values)
        shown = everything
        if self._hides_something:
            shown = self.record.snapshot({name: values[name] for name in self.visible})
        return Response(shown, status, {"ETag": _etag_of(everything), **(headers or {})}, "application/json")

    def respond_stored(self, key: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
        """The record as the database keeps it, which may round; so the ETag is the one of the next read."""
        values = self.find(key)
        if values is None:
            raise HTTPException(404, "Not found")
        return self.respond(values, status, headers)

    def respond_many(self, keys: Sequence[Any], status: int = 200) -> Response:
        """These records as the database keeps them, in the order of their keys here."""
        found: dict[Any, Values] = {}
        for start in range(0, len(keys), 500):
            for values in self.rows(self.key_column.in_(keys[start : start + 500])):
                found[values[self.record.key]] = {name: values[name] for name in self.visible}
        body = encode(self.record.for_json([found[key] for key in keys if key in found]))
        return Response(body, status, media_type="application/json")

    def location(self, collection_path: str, key: Any) -> str:
        """Path of a record."""
        return f"{collection_path.rstrip('/')}/{quote(str(key), safe='')}"

    # Writing

    def check_preconditions(
        self, values: Values | None, if_match: str | None, if_none_match: str | None = None
    ) -> None:
        """RFC 9110: 412 where the stored record is not one that the client names."""
        etag = None if values is None else self.etag(values)
        if if_match is not None and not matches(if_match, etag):
            raise HTTPException(412, "The record was changed meanwhile; read it again")
        if if_none_match is not None and matches(if_none_match, etag):
            raise HTTPException(412, "The record exists already")

    def require_room(self, count: int = 1) -> None:
        """Inside a transaction: make sure that so many more records fit.

        Raises:
            RecordLimitReached: They do not.
        """
        if self.max_records is not None:
            self.accessor.require_room(count, self.max_records)

    def create(self, fields: Mapping[str, Any]) -> Any:
        """Insert a record of these fields; returns its key."""
        instance = self.accessor.insert(self.accessor.model(**fields), max_records=self.max_records)
        return getattr(instance, self.record.key)

    def sent(self, payload: BaseModel) -> dict[str, Any]:
        """The fields of a new record that a client sent."""
        return {name: getattr(payload, name) for name in payload.model_fields_set if name != SOFT_DELETE_FIELD}

    def changes(self, payload: BaseModel) -> dict[str, Any]:
        """The fields that a client sent for an existing record: a record's key never changes."""
        return {name: value for name, value in self.sent(payload).items() if name != self.record.key}

    def require_complete(self, fields: Mapping[str, Any]) -> None:
        """422 where a new record would lack a required field."""
        missing = [name for name in self._required if name not in fields]
        if missing:
            raise RequestValidationError(
                [{"type": "missing", "loc": ("body", name), "msg": "Field required"} for name in missing]
            )


def _etag_of(snapshot: str) -> str:
    return f'"{hashlib.blake2b(snapshot.encode(), digest_size=12).hexdigest()}"'


def is_deleted(values: Values) -> bool:
    """Whether the record is soft-deleted."""
    return values.get(SOFT_DELETE_FIELD) is not None


def matches(condition: str, etag: str | None, *, weakly: bool = False) -> bool:
    """RFC 9110, 13.1: whether a list of ETags, or `*` for any, names the one of the stored record.

    Args:
        condition: Value of the header.
        etag: None where there is no record.
        weakly: Ignore the `W/` that proxies add when they compress.
    """
    if etag is None:
        return False
    given = [tag.strip() for tag in condition.split(",")]
    return "*" in given or etag in ([tag.removeprefix("W/") for tag in given] if weakly else given)
