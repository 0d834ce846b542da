"""The audit of the REST door: who changed something or took a model, and whether that was refused."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Annotated

import structlog
from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.doors.doorkeeper import Caller
from coordinator.doors.rest.views import moment
from coordinator.state.errors import StateUnavailable
from coordinator.store.audit import AuditTrail, Entry, Recorded
from coordinator.store.credentials import KEY, bearer, id_of

CALLER = "fedgalore.caller"  # in a request's scope, once its key was seen
MOST_CHARACTERS = 500  # of a path
READS = ("GET", "HEAD", "OPTIONS")  # methods that change nothing
LOOKS = ":validate"  # the end of paths by which nothing changes, whatever the method
DOWNLOADS = ("/model", "/adapter")
log = structlog.get_logger(__name__)


def changes(method: str, path: str) -> bool:
    """Whether a request may change something."""
    return method not in READS and not path.endswith(LOOKS)


def is_audited(method: str, path: str) -> bool:
    """Whether a request changes something, or takes a model away."""
    return path.startswith("/api/") and (changes(method, path) or path.endswith(DOWNLOADS))


class Audit:
    """ASGI middleware around everything: it hears of refused requests, too, and of answers that were cut."""

    def __init__(self, app: ASGIApp, trail: AuditTrail) -> None:
        self._app = app
        self._trail = trail

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not is_audited(scope["method"], scope["path"]):
            await self._app(scope, receive, send)
            return
        status, sent_bytes, whole = 0, 0, False

        async def watched(message: Message) -> None:
            nonlocal status, sent_bytes, whole
            await send(message)
            status = int(message.get("status", status))
            sent_bytes += len(message.get("body", b""))
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, receive, watched)
        finally:
            outcome = f"{status}" if whole else f"{status} cut"
            writing = asyncio.ensure_future(self._write(scope, outcome, sent_bytes))
            try:
                await asyncio.shield(writing)
            except asyncio.CancelledError:  # the caller has gone; what it did is written all the same
                await asyncio.wait([writing])
                raise

    async def _write(self, scope: Scope, outcome: str, sent_bytes: int) -> None:
        caller: Caller | None = scope.get(CALLER)
        secret = bearer(Headers(scope=scope).get("authorization"))
        entry = Entry(
            key=caller.key if caller else id_of(KEY, secret or "") or "",
            name=caller.name if caller else "",
            role=caller.role.value if caller else "",
            address=(scope.get("client") or ("",))[0],
            method=scope["method"][:MOST_CHARACTERS],
            path=_asked(scope),
            outcome=outcome,
            sent_bytes=sent_bytes,
        )
        if caller is None:  # anybody can cause these: the log leaves some out, the trail keeps the newest
            log.warning("request_audited", **vars(entry))
        else:
            log.info("request_audited", **vars(entry))
        try:
            await self._trail.add(entry, stranger=caller is None)
        except StateUnavailable as error:
            log.error("audit_failed", reason=str(error))


def _asked(scope: Scope) -> str:
    """Path and query as they came; what nobody could print is escaped."""
    query = b"?" + scope["query_string"] if scope["query_string"] else b""
    text = (scope["raw_path"] + query)[:MOST_CHARACTERS].decode("ascii", "backslashreplace")
    return "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in text)


class AuditEntry(BaseModel):
    id: str
    at: datetime
    key: str = Field(description="Id of the API key, `settings` for the operator's key of the settings, else empty")
    name: str
    role: str
    address: str
    method: str
    path: str
    outcome: str = Field(description="HTTP status; with ` cut` where the answer did not arrive whole")
    sent_bytes: int


class AuditPage(BaseModel):
    entries: list[AuditEntry]
    next: str | None = Field(description="Give it as `after` for the page that follows; null: there is none")


def router(trail: AuditTrail) -> APIRouter:
    routes = APIRouter(prefix="/api/v1", tags=["access"])

    @routes.get("/audit")
    async def list_audit(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        after: Annotated[str | None, Query(pattern=r"^\d{1,18}-\d{1,18}$", examples=["1700000000000-0"])] = None,
        strangers: Annotated[bool, Query(description="Requests without a known key, which are kept apart")] = False,
    ) -> AuditPage:
        """Requests that changed something or took a model, refused ones included, newest first."""
        page = await trail.page(after, limit, strangers=strangers)
        return AuditPage(entries=list(map(_view, page)), next=page[-1].id if len(page) == limit else None)

    return routes


def _view(recorded: Recorded) -> AuditEntry:
    return AuditEntry(id=recorded.id, at=moment(recorded.at), **vars(recorded.entry))
