"""Keys of the REST door: which requests need a key, and the routes by which operators make and revoke them."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from contextlib import ExitStack
from datetime import datetime
from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from coordinator.doors import watched
from coordinator.doors.doorkeeper import Access, Doorkeeper
from coordinator.doors.limits import MOST_DOWNLOADS, DoorLimits, Places, holder_of
from coordinator.doors.rest import problems
from coordinator.doors.rest.audit import CALLER, DOWNLOADS, changes
from coordinator.doors.rest.connection import CUT
from coordinator.doors.rest.teams import TEAMS
from coordinator.doors.rest.views import moment
from coordinator.state.errors import Busy, DomainError, NotAllowed, NotAuthenticated, ProviderAway, StateUnavailable
from coordinator.state.limits import MAX_TOKEN_VALID_S
from coordinator.store.credentials import ApiKey, JoinToken, Role, bearer
from fedgalore.process.tls import is_loopback
from fedgalore.spec.strict import Identifier, Strict

API = "/api/"
_GUARDED = (API, "/metrics")
_OPERATORS = ("/api/v1/keys", "/api/v1/join-tokens", "/api/v1/audit")


def needed(method: str, path: str) -> Role | None:
    """The role that a request needs; None where nobody is asked."""
    if not path.startswith(_GUARDED):
        return None
    return Role.OPERATOR if changes(method, path) or path.startswith(_OPERATORS) else Role.VIEWER


class KeyGuard:
    """ASGI middleware that lets nothing of a request be read before its key was: no route can forget to ask."""

    def __init__(self, app: ASGIApp, doorkeeper: Doorkeeper, limits: DoorLimits, origins: Collection[str] = ()) -> None:
        """`origins`: of pages of other sites that may call where nobody is asked for a key."""
        self._app = app
        self._origins = frozenset(origins)
        self._doorkeeper = doorkeeper
        self._requests = Places("requests", limits.max_requests_per_key, "max_requests_per_key")
        self._downloads = Places("downloads", MOST_DOWNLOADS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        role = needed(scope["method"], scope["path"]) if scope["type"] == "http" else None
        if role is None:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        secret = bearer(headers.get("authorization"))
        try:
            self._check_page(headers)
            scope[CALLER] = caller = await self._doorkeeper.caller(secret)
            if role is Role.OPERATOR and caller.role is not role:
                raise NotAllowed(
                    f"Authorization: the {caller.shows} is a {caller.role}'s, and {scope['method']} {scope['path']} "
                    f"needs an operator's; ask an operator for a {caller.shows} of that role"
                )
            scope[TEAMS] = caller.teams(role)
            if changes(scope["method"], scope["path"]):
                await self._doorkeeper.check_writable()
        except DomainError as error:
            await problems.of(error)(scope, receive, send)
            return
        holder = caller.key or holder_of((scope.get("client") or ("",))[0])
        try:
            with ExitStack() as places:
                places.enter_context(self._requests.one(holder))
                if scope["path"].endswith(DOWNLOADS):
                    places.enter_context(self._downloads.one(holder))
                await self._while_known(secret, scope, receive, send)
        except Busy as error:
            await problems.of(error)(scope, receive, send)

    async def _while_known(self, secret: str | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves the request; its connection is cut within seconds after the key was revoked."""

        async def watch() -> None:
            while True:
                await asyncio.sleep(watched.RECHECK_S)
                try:
                    await self._doorkeeper.caller(secret)
                except (NotAuthenticated, NotAllowed):
                    scope["state"][CUT]()
                    return
                except (StateUnavailable, ProviderAway):
                    pass  # nothing is known: asked again

        watching = asyncio.create_task(watch())
        try:
            await self._app(scope, receive, send)
        finally:
            watching.cancel()

    def _check_page(self, headers: Headers) -> None:
        """Where nobody is asked for a key, keeps out pages of other sites that a browser on this machine shows.

        Raises:
            NotAllowed: the page is of another origin, or calls this machine by a name that its site gave it (DNS
                rebinding).
        """
        if self._doorkeeper.access is Access.SECURED:
            return  # a page does not have the key
        host, origin = headers.get("host", ""), headers.get("origin")
        if origin is not None and origin not in self._origins and origin.partition("://")[2] != host:
            raise NotAllowed(
                f"Origin: a page of {origin} may not call this coordinator; open the coordinator's own dashboard, or "
                "name the page in the setting cors_origins"
            )
        if self._doorkeeper.access is Access.OPEN and not is_loopback(re.sub(r":\d*$", "", host)):
            raise NotAllowed(
                f"Host: {host!r} is no name of this machine alone; call 127.0.0.1, or set FEDGALORE_OPERATOR_KEY_FILE, "
                "so that everybody is asked for a key"
            )


class NewKey(Strict):
    name: Identifier = Field(description="Whose key it is; shown in the list")
    role: Role
    team: Identifier | None = Field(default=None, description="The team in which alone it is good; null: in all")


class KeyView(BaseModel):
    id: str
    name: str
    role: Role
    team: str | None = Field(description="null: of all teams")
    created: datetime


class KeyList(BaseModel):
    keys: list[KeyView]


class MadeKey(KeyView):
    key: str = Field(description="The key itself: shown this once")


class NewJoinToken(Strict):
    client: Identifier
    valid_s: Annotated[float, Field(ge=1, le=MAX_TOKEN_VALID_S)] = Field(
        default=7 * 86400, description="Seconds it is good"
    )


class JoinTokenView(BaseModel):
    id: str
    client: str
    created: datetime
    expires: datetime
    used: datetime | None = Field(description="When an agent enrolled by it")
    expired: bool


class JoinTokenList(BaseModel):
    join_tokens: list[JoinTokenView]


class MadeJoinToken(JoinTokenView):
    token: str = Field(description="The token itself: shown this once")


def router(doorkeeper: Doorkeeper) -> APIRouter:
    routes = APIRouter(prefix="/api/v1", tags=["access"])

    def token_view(token: JoinToken) -> JoinTokenView:
        return JoinTokenView(
            id=token.id,
            client=token.client,
            created=moment(token.created_at),
            expires=moment(token.expires_at),
            used=moment(token.used_at) if token.used_at is not None else None,
            expired=doorkeeper.is_expired(token),
        )

    @routes.get("/keys")
    async def list_keys() -> KeyList:
        """API keys without their secrets; the operator's key of the settings is not among them."""
        return KeyList(keys=[_key_view(key) for key in await doorkeeper.keys()])

    @routes.post("/keys", status_code=201)
    async def create_key(new: NewKey) -> MadeKey:
        """Makes an API key: a viewer's reads everything, models included; an operator's may change things as well."""
        key, secret = await doorkeeper.create_key(new.name, new.role, new.team or "")
        return MadeKey(**_key_view(key).model_dump(), key=secret)

    @routes.delete("/keys/{key_id}", status_code=204)
    async def revoke_key(key_id: str) -> None:
        """The next request with this key is refused."""
        await doorkeeper.revoke_key(key_id)

    @routes.get("/join-tokens")
    async def list_join_tokens() -> JoinTokenList:
        """Join tokens without their secrets, used and expired ones among them."""
        return JoinTokenList(join_tokens=[token_view(token) for token in await doorkeeper.join_tokens()])

    @routes.post("/join-tokens", status_code=201)
    async def create_join_token(new: NewJoinToken) -> MadeJoinToken:
        """Makes a token by which this client's agent can enrol once, with a key that it makes itself.

        For a client that is enrolled already: its next agent replaces the key, as after the loss of a disk.
        """
        token, secret = await doorkeeper.create_join_token(new.client, new.valid_s)
        return MadeJoinToken(**token_view(token).model_dump(), token=secret)

    @routes.delete("/join-tokens/{token_id}", status_code=204)
    async def revoke_join_token(token_id: str) -> None:
        """A key that was brought in by the token stays: DELETE the agent."""
        await doorkeeper.revoke_join_token(token_id)

    return routes


def _key_view(key: ApiKey) -> KeyView:
    return KeyView(id=key.id, name=key.name, role=key.role, team=key.team or None, created=moment(key.created_at))
