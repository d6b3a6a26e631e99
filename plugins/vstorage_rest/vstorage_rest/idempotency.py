"""`Idempotency-Key`: a request that a client sends again is answered again and not done again.

The answer is remembered in the transaction of what it answers, so both are stored or neither is.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence

from fastapi import HTTPException, Request, Response
from pydantic import BaseModel
from sqlalchemy import Column, Connection, Float, Integer, LargeBinary, MetaData, String, Table, inspect
from sqlalchemy.schema import CreateTable

from vstorage_core import ConstraintViolation, Storage
from vstorage_core.records import encode_snapshot
from vstorage_rest.access import Caller

REMEMBERED_SECONDS = 24 * 60 * 60
CLEANED_SECONDS = 60 * 60

# In no model's metadata: it belongs into no export, diagram or backup.
ANSWERS = Table(
    "vstorage_idempotency",
    MetaData(),
    Column("identity", String(64), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("answered_at", Float(53), nullable=False),
    Column("status", Integer),
    Column("etag", String(64)),
    Column("location", String(1024)),
    Column("body", LargeBinary(2**31)),
)


def run_once(
    storage: Storage,
    request: Request,
    caller: Caller,
    key: str | None,
    payload: Sequence[BaseModel],
    work: Callable[[], Response],
) -> Response:
    """The answer of `work`, run in a transaction, or the one that it gave to the same request before.

    Args:
        storage: The database.
        request: Its method and path, the actor and `key` together name the request.
        caller: Who sends it.
        key: The client's; None: run it whatever was before.
        payload: The checked body, record by record.
        work: Writes through accessors and gives the answer; an exception undoes and forgets everything.

    Raises:
        HTTPException: 422, the key was used with another body.
    """
    if key is None:
        with storage.transaction():
            return work()
    _prepare(storage)
    identity = _digest(caller.actor, request.method, request.url.path, key)
    fingerprint = _digest(*(encode_snapshot(record.model_dump(exclude_unset=True)) for record in payload))
    with storage.transaction() as session:
        connection = session.connection()
        try:
            with storage.transaction() as attempt:
                # Waits here while the same request is under way elsewhere.
                row = {"identity": identity, "fingerprint": fingerprint, "answered_at": time.time()}
                attempt.connection().execute(ANSWERS.insert().values(row))
        except ConstraintViolation:
            return _remembered(connection, identity, fingerprint)
        answer = work()
        connection.execute(
            ANSWERS.update()
            .where(ANSWERS.c.identity == identity)
            .values(
                status=answer.status_code,
                etag=answer.headers.get("etag"),
                location=answer.headers.get("location"),
                body=answer.body,
            )
        )
    return answer


def forget_answers(storage: Storage) -> None:
    """What was answered about a database that has been replaced says nothing about the new one."""
    if inspect(storage.engine).has_table(ANSWERS.name):
        with storage.transaction() as session:
            session.connection().execute(ANSWERS.delete())


def _remembered(connection: Connection, identity: str, fingerprint: str) -> Response:
    row = connection.execute(ANSWERS.select().where(ANSWERS.c.identity == identity)).one()
    if row.fingerprint != fingerprint:
        raise HTTPException(422, "This Idempotency-Key was used for a request with another body; use a new one")
    headers = {"ETag": row.etag, "Location": row.location, "Idempotent-Replayed": "true"}
    return Response(
        row.body, row.status, {name: value for name, value in headers.items() if value is not None}, "application/json"
    )


def _prepare(storage: Storage) -> None:
    """Once an hour, in a transaction of its own: make the table where there is none, and drop old answers."""
    now = time.time()
    if now - storage.extensions.get("rest.idempotency", 0.0) < CLEANED_SECONDS:
        return
    with storage.transaction() as session:
        # PostgreSQL's IF NOT EXISTS does not hold for two at once.
        storage.lock("vstorage_idempotency")
        connection = session.connection()
        connection.execute(CreateTable(ANSWERS, if_not_exists=True))
        connection.execute(ANSWERS.delete().where(ANSWERS.c.answered_at < now - REMEMBERED_SECONDS))
    storage.extensions["rest.idempotency"] = now


def _digest(*parts: str | None) -> str:
    return hashlib.blake2b("\0".join(str(part) for part in parts).encode(), digest_size=32).hexdigest()
