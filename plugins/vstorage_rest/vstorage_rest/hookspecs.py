"""The hooks that vstorage_rest adds: who is calling, and what they may do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vstorage_core import hookspec

if TYPE_CHECKING:
    from fastapi import Request

    from vstorage_core import Storage


@hookspec
def vstorage_authenticate(storage: Storage, request: Request) -> str | None:
    """Name the actor of a request, or return None to leave it to the next plugin and at last to `X-User`.

    The first name counts. Not called for bearers of the admin token. Raise `fastapi.HTTPException(401)` to refuse
    credentials that are wrong; anything else that is raised refuses the request with 500.
    """


@hookspec
def vstorage_authorize(storage: Storage, actor: str | None, action: str, component: str) -> bool | None:
    """Say whether `actor` may: True allows, False denies, None has no opinion. One False is enough to deny.

    Actions are `records.read` and `records.write` with the component, `db.audit`, `db.plugins` and `db.metrics` with
    the component `db`. For exporters and importers the component is their name, and the action `db.export`,
    `db.import` or what they call it: `db.backup`, `db.restore`. `actor` is None where nobody is known; where a plugin
    authenticates, also for those who only bring an `X-User` label; and `admin` for bearers of the admin token. What
    no plugin denies or allows is as the settings say. Raising refuses the request.
    """
