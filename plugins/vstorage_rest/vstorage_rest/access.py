"""Who is calling, and whether they may."""

import hmac
import ipaddress
import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple
from urllib.parse import urlsplit

from fastapi import Header, HTTPException, Request, Security
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool

from vstorage_core import InvalidInput, Storage, acting_as
from vstorage_core.audit import check_actor
from vstorage_rest.settings import ADMIN_TOKEN_VARIABLE, MINIMUM_TOKEN_LENGTH, RestSettings, rest_settings

UNSAFE_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
PROXY_HEADERS = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip")
LOOPBACK_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})
ADMIN_ACTOR = "admin"
TOKEN_SOURCE = "token"  # noqa: S105 (the name of a source)

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class Caller:
    """What is known about who sent a request.

    Attributes:
        actor: Their name, or None on a read without one.
        source: How the name is known: `header`, `token`, or the plugin that gave it.
    """

    actor: str | None
    source: str
    remote_address: str | None
    request_id: str
    reason: str | None

    def acting(self) -> AbstractContextManager[None]:
        """Blame what is written inside the block on them."""
        return acting_as(
            self.actor,
            actor_source=self.source,
            remote_address=self.remote_address,
            request_id=self.request_id,
            reason=self.reason,
        )


XUser = Annotated[
    str | None,
    Header(
        alias="X-User",
        description="Who acts, for the audit trail: a label, not an identity. Required on writes.",
        examples=["operator"],
    ),
]
XReason = Annotated[str | None, Header(alias="X-Reason", description="Why, for the audit trail.", max_length=1000)]


def admission_for(
    storage_of: Callable[[], Storage], action: str, component: str, *, writes: bool = False
) -> Callable[..., Caller]:
    """A function of a request, and the reason it gives, that names the caller.

    It refuses those who may not do `action` on `component`.
    """

    def admit(request: Request, x_reason: str | None = None) -> Caller:
        storage = storage_of()
        settings = rest_settings(storage)
        _refuse_other_sites(request, settings.allowed_origins)
        caller = _identify(storage, settings, request)
        _authorize(storage, settings, request, caller, action, component)
        actor = caller.actor
        if writes and actor is None:
            raise HTTPException(400, "Missing X-User header: name who acts, e.g. 'X-User: ana'")
        return Caller(
            actor=actor,
            source=caller.source,
            remote_address=_remote_address(request, settings),
            request_id=_request_id(request),
            reason=x_reason if x_reason is None else _decoded(x_reason),
        )

    return admit


def caller_for(
    storage_of: Callable[[], Storage], action: str, component: str, *, writes: bool = False
) -> Callable[..., Awaitable[Caller]]:
    """`admission_for` as a FastAPI dependency."""
    admit = admission_for(storage_of, action, component, writes=writes)

    async def admitted(request: Request, x_reason: str | None) -> Caller:
        if asks_plugins(storage_of()):
            return await run_in_threadpool(admit, request, x_reason)
        # A hop to a thread and back would cost more than all the rest of a short request.
        return admit(request, x_reason)

    # `x_user` is read from the request, where a second one shows; the parameter puts it in the OpenAPI document.
    async def reading(request: Request, x_user: XUser = None) -> Caller:
        return await admitted(request, None)

    async def writing(request: Request, x_user: XUser = None, x_reason: XReason = None) -> Caller:
        return await admitted(request, x_reason)

    return writing if writes else reading


AdminToken = Security(
    HTTPBearer(
        scheme_name="AdminToken",
        description=f"What the server has in {ADMIN_TOKEN_VARIABLE}; not needed on the server's own machine.",
        auto_error=False,
    )
)
# For the document: or nothing, on this machine.
TOKEN_IS_OPTIONAL: dict[str, Any] = {"security": [{}]}


def asks_plugins(storage: Storage) -> bool:
    """Whether plugins say who may do what; they may take their time."""
    separately = storage.plugin_registry.separately
    return bool(separately("vstorage_authenticate") or separately("vstorage_authorize"))


class _Identity(NamedTuple):
    """Who is calling.

    Attributes:
        actor: For the audit trail.
        known_as: For plugins that authorize; None where nobody vouches for the name.
        source: As in `Caller`.
    """

    actor: str | None
    known_as: str | None
    source: str


def _identify(storage: Storage, settings: RestSettings, request: Request) -> _Identity:
    if _has_admin_token(settings, request):
        return _Identity(_header_actor(request) or ADMIN_ACTOR, ADMIN_ACTOR, TOKEN_SOURCE)
    authenticating = storage.plugin_registry.separately("vstorage_authenticate")
    for plugin, call in authenticating:
        named = next((name for name in call(storage=storage, request=request) if name is not None), None)
        if named is not None:
            actor = check_actor(named)
            return _Identity(actor, actor, plugin.name)
    label = _header_actor(request)
    if label is not None and settings.trusted_proxies and not _is_trusted(_peer_address(request), settings):
        raise HTTPException(403, "X-User is believed only from the proxies that rest.trusted_proxies names")
    return _Identity(label, None if authenticating else label, "header")


def _header_actor(request: Request) -> str | None:
    given = request.headers.getlist("x-user")
    if len(given) > 1:
        raise HTTPException(400, "More than one X-User header")
    if not given or not given[0]:
        return None
    try:
        return check_actor(_decoded(given[0]))
    except InvalidInput as error:
        raise HTTPException(400, f"X-User: {error}") from None


def _decoded(header: str) -> str:
    """Starlette reads headers as Latin-1; most clients write UTF-8."""
    try:
        return header.encode("latin-1").decode()
    except UnicodeError:
        return header


def _authorize(
    storage: Storage, settings: RestSettings, request: Request, caller: _Identity, action: str, component: str
) -> None:
    opinions: list[bool | None] = [
        opinion
        for _, call in storage.plugin_registry.separately("vstorage_authorize")
        for opinion in call(storage=storage, actor=caller.known_as, action=action, component=component)
    ]
    if False in opinions:
        raise HTTPException(403, f"{caller.actor or 'A caller without a name'} may not do {action} on {component}")
    if caller.source == TOKEN_SOURCE or True in opinions:
        return
    if settings.deny_by_default:
        raise HTTPException(
            403, f"{action} is denied by default; install a plugin that allows it, or unset rest.deny_by_default"
        )
    if action.startswith("db.") and not _is_local(request):
        raise HTTPException(
            403,
            f"{action} is only for this machine itself, or with the header 'Authorization: Bearer <token>' and the"
            f" token that the server has in {ADMIN_TOKEN_VARIABLE} (at least {MINIMUM_TOKEN_LENGTH} characters)",
        )


def _has_admin_token(settings: RestSettings, request: Request) -> bool:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if settings.admin_token is None or scheme.lower() != "bearer":
        return False
    # Bytes, because compare_digest refuses text beyond ASCII.
    return hmac.compare_digest(given.strip().encode(), settings.admin_token.get_secret_value().encode())


def _is_local(request: Request) -> bool:
    """Whether the request comes from this machine and no proxy speaks for somebody else."""
    address = _peer_address(request)
    return (
        address is not None
        and address.is_loopback
        and _host_name(request.headers.get("host", "")) in LOOPBACK_HOSTS
        and not any(name in request.headers for name in PROXY_HEADERS)
    )


def _host_name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None


def _peer_address(request: Request) -> IPAddress | None:
    return None if request.client is None else _ip_address(request.client.host)


def _ip_address(text: str) -> IPAddress | None:
    try:
        address = ipaddress.ip_address(text.strip())
    except ValueError:
        return None
    # A server that listens on IPv6 and IPv4 alike sees 127.0.0.1 as ::ffff:127.0.0.1.
    return getattr(address, "ipv4_mapped", None) or address


def _is_trusted(address: IPAddress | None, settings: RestSettings) -> bool:
    return address is not None and any(address in network for network in settings.trusted_proxies)


def _remote_address(request: Request, settings: RestSettings) -> str | None:
    """The peer, or whom a trusted proxy says that it speaks for."""
    peer = _peer_address(request)
    if _is_trusted(peer, settings):
        for hop in reversed(",".join(request.headers.getlist("x-forwarded-for")).split(",")):
            address = _ip_address(hop)
            if address is None:
                break
            if not _is_trusted(address, settings):
                return str(address)
    return None if peer is None else str(peer)


def _request_id(request: Request) -> str:
    given = request.headers.get("x-request-id", "")
    return given if 0 < len(given) <= 100 and given.isprintable() else uuid.uuid4().hex


def _refuse_other_sites(request: Request, allowed_origins: list[str]) -> None:
    """Browsers send a page's requests to any server; only our own pages may change data."""
    if request.method not in UNSAFE_METHODS:
        return
    origin = request.headers.get("origin")
    if origin in allowed_origins:
        return
    foreign = origin is not None and origin.partition("://")[2] != request.headers.get("host")
    if foreign or request.headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        raise HTTPException(403, "Another web site may not change data here; name it in rest.allowed_origins")
