"""From exceptions to HTTP answers, in one place. Bodies keep FastAPI's `detail` and never show SQL, values or paths."""

from __future__ import annotations

import errno
import logging
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from vstorage_core import (
    ConstraintViolation,
    ImportInProgress,
    ImportRefused,
    InvalidInput,
    InvalidRecord,
    RecordDeleted,
    RecordLimitReached,
    StorageUnavailable,
)

logger = logging.getLogger("vstorage.rest")

STATUS_OF_CONSTRAINT = {"unique": 409, "foreign_key": 409, "not_null": 422, "check": 422}
STATUS_OF: dict[type[Exception], int] = {
    InvalidInput: 422,
    RecordDeleted: 404,
    RecordLimitReached: 409,
    ImportInProgress: 409,
    StorageUnavailable: 503,
}


class HTTPProblem(BaseModel):
    """One thing that is wrong with a request; importers add what they know, e.g. the row of a file."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(default="", description="A word for programs", examples=["missing"])
    loc: list[str | int] = Field(default=[], description="Where it stands in the request", examples=[["body", "name"]])
    msg: str = Field(default="", description="A sentence for people", examples=["Field required"])


class HTTPFailure(BaseModel):
    """The body of a refused request."""

    detail: str | list[HTTPProblem]


class BatchRefused(Exception):
    """Items of a batch are refused; nothing of it was stored.

    Attributes:
        status: The HTTP status of the answer.
        problems: What is wrong with each, as in FastAPI's answers.
    """

    def __init__(self, status: int, problems: list[dict[str, Any]]) -> None:
        super().__init__(status, problems)
        self.status = status
        self.problems = problems


MEANINGS = {
    400: "The actor is missing or cannot be one, or the body cannot be read",
    401: "The credentials are wrong",
    403: "The caller may not do this; the detail says how to allow it",
    404: "There is no such record",
    409: "A unique value is taken, a reference is broken, the component is full, or another import is running",
    412: "The record was changed since the client read it",
    413: "The body is larger than the server takes",
    422: "A value is missing or not allowed; the detail names it",
    500: "The server failed; the detail has an id that also stands in its log",
    503: "The database is busy or unavailable; try again after the seconds in Retry-After",
}


def declared(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's description of these failures, and of those that every route may have."""
    responses: dict[int | str, dict[str, Any]] = {
        status: {"description": MEANINGS[status], "content": {"application/json": {"schema": _FAILURE}}}
        for status in sorted({*statuses, 401, 403, 422, 500, 503})
    }
    responses[503]["headers"] = described("Retry-After")
    # FastAPI makes a validator of each model of each response; one of them puts the schema into the document.
    responses[500] = {"description": MEANINGS[500], "model": HTTPFailure}
    return responses


# Of answers, by name; each with what it tells.
HEADERS = {
    "ETag": "Names this state of the record, for If-Match and If-None-Match",
    "Link": "Leads to other pages: rel=next, rel=prev (RFC 8288)",
    "Location": "Path of the new record",
    "Retry-After": "Seconds to wait",
    "X-Total-Count": "How many there are on all pages, where count=true asks",
}


def described(*headers: str) -> dict[str, Any]:
    """OpenAPI's description of these headers of an answer."""
    return {name: {"description": HEADERS[name], "schema": {"type": "string"}} for name in headers}


_FAILURE = {"$ref": f"#/components/schemas/{HTTPFailure.__name__}"}


def answer(error: Exception, *, writes: bool) -> Response:
    """The HTTP answer to an exception; what nobody expected is logged under an id that the answer names.

    Args:
        error: What was raised.
        writes: Whether hooks may have run: their ValueError and PermissionError are refusals, others' are faults.
    """
    refused = refusal(error, writes=writes)
    if refused is not None:
        status, detail = refused
        headers = {"Retry-After": str(error.retry_after_seconds)} if isinstance(error, StorageUnavailable) else None
        return JSONResponse({"detail": detail}, status, headers)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        logger.error("the disk is full", exc_info=error)
        return JSONResponse({"detail": "The disk is full"}, 503, {"Retry-After": "60"})
    if isinstance(error, ClientDisconnect):
        return JSONResponse({"detail": "The client went away"}, 400)
    failure_id = uuid.uuid4().hex[:12]
    logger.error("request failed, id %s", failure_id, exc_info=error)
    return JSONResponse({"detail": f"Internal error {failure_id}; the server's log says more under this id"}, 500)


def refusal(
    error: Exception, *, writes: bool, loc: Sequence[str | int] = ("body",)
) -> tuple[int, str | list[dict[str, Any]]] | None:
    """Status and detail for an exception that refuses a request; None for one that is a fault.

    Args:
        error: What was raised.
        writes: See `answer`.
        loc: Where in the request the refused record stands.
    """
    if isinstance(error, RequestValidationError):
        return 422, [_without_input(problem) for problem in error.errors()]
    if isinstance(error, BatchRefused):
        return error.status, error.problems
    if isinstance(error, InvalidRecord):
        return 422, [{**problem, "loc": [*loc, *problem["loc"]]} for problem in error.errors]
    if isinstance(error, ConstraintViolation):
        places = [[*loc, field] for field in error.fields] or [[*loc]]
        problems = [{"type": error.kind, "loc": place, "msg": error.message} for place in places]
        return STATUS_OF_CONSTRAINT[error.kind], problems
    if isinstance(error, ImportRefused) and error.details:
        return 422, [{"msg": str(error)}, *map(dict, error.details)]
    for kind, status in STATUS_OF.items():
        if isinstance(error, kind):
            return status, str(error)
    if writes and isinstance(error, ValidationError):
        return 422, [_without_input(problem) for problem in error.errors()]
    if writes and isinstance(error, ValueError) and not isinstance(error, UnicodeError):
        return 422, str(error)
    # The operating system's has a number, and a path in its text.
    if writes and isinstance(error, PermissionError) and error.errno is None:
        return 403, str(error)
    return None


# pydantic speaks to programmers; the others of its sentences are clear.
_CLEARER = {
    "extra_forbidden": "There is nothing of this name here; the API's document (openapi.json) tells what there is",
    "model_attributes_type": "Input should be a JSON object, with 'Content-Type: application/json'",
}


def _without_input(problem: Mapping[str, Any]) -> dict[str, Any]:
    # The input may be a secret, and NaN or half a character in it would turn the answer into a 500.
    message = _CLEARER.get(problem["type"], problem["msg"]).removeprefix("Value error, ")
    return {"type": problem["type"], "loc": list(problem["loc"]), "msg": message}
