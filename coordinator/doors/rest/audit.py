"""The audit of the REST door: who changed something or took a model, and whether that was refused."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from coordinator.doors.audited import shown, write_down
from coordinator.doors.caller import Caller
from coordinator.doors.rest.views import moment
from coordinator.store.audit import AuditTrail, Entry, Recorded, Whose
from coordinator.store.credentials import KEY, bearer, id_of

CALLER = "fedgalore.caller"  # in a request's scope, once its key was seen
READS = ("GET", "HEAD", "OPTIONS")  # methods that change nothing
LOOKS = (("POST", "/api/v1/jobs:validate"),)  # routes by which nothing changes, whatever the method
DOWNLOADS = ("/model", "/adapter")


def changes(method: str, path: str) -> bool:
    """Whether a request may change something."""
    return method not in READS and (method, path) not in LOOKS


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
        status, sent_bytes, received_bytes, whole = 0, 0, 0, False

        async def heard() -> Message:
            nonlocal received_bytes
            message = await receive()
            received_bytes += len(message.get("body", b""))
            return message

        async def watched(message: Message) -> None:
            nonlocal status, sent_bytes, whole
            await send(message)
            status = int(message.get("status", status))
            sent_bytes += len(message.get("body", b""))
            whole = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self._app(scope, heard, watched)
        finally:
            await self._write(scope, f"{status}" if whole else f"{status} cut", sent_bytes, received_bytes)

    async def _write(self, scope: Scope, outcome: str, sent_bytes: int, received_bytes: int) -> None:
        caller: Caller | None = scope.get(CALLER)
        secret = bearer(Headers(scope=scope).get("authorization"))
        query = b"?" + scope["query_string"] if scope["query_string"] else b""
        entry = Entry(
            key=caller.key if caller else id_of(KEY, secret or "") or "",
            name=caller.name if caller else "",
            role=caller.role.value if caller else "",
            address=(scope.get("client") or ("",))[0],
            method=shown(scope["method"]),
            path=shown((scope["raw_path"] + query).decode("ascii", "backslashreplace")),
            outcome=outcome,
            sent_bytes=sent_bytes,
            received_bytes=received_bytes,
        )
        await write_down(self._trail, entry, Whose.PEOPLE if caller else Whose.STRANGERS)


class AuditEntry(BaseModel):
    id: str
    at: datetime
    key: str = Field(
        description="Id of the API key; `settings` for the operator's key of the settings; `oidc:` and the `sub` of a "
        "person's token; of an agent, how its key's SHA-256 begins; else empty"
    )
    name: str = Field(description="Of the key or the person; of an agent, the client")
    role: str = Field(description="`viewer`, `operator`, `agent`; of strangers empty")
    address: str
    method: str = Field(description="Of HTTP, or the name of the agent's call")
    path: str
    outcome: str = Field(
        description="HTTP status, with ` cut` where the answer did not arrive whole; of an agent's call the status of "
        "gRPC, `CANCELLED` where it broke"
    )
    sent_bytes: int = Field(description="By the coordinator: the answer's body, or a file")
    received_bytes: int = Field(description="By the coordinator: the request's body, or an update")
    left_out: int = Field(
        default=0,
        description="Entries since this client's last one that the coordinator's log alone has: it called too often",
    )


class AuditPage(BaseModel):
    entries: list[AuditEntry]
    next: str | None = Field(description="Give it as `after` for the page that follows; null: there is none")


def router(trail: AuditTrail) -> APIRouter:
    routes = APIRouter(prefix="/api/v1", tags=["access"])

    @routes.get("/audit")
    async def list_audit(
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        after: Annotated[str | None, Query(pattern=r"^\d{1,18}-\d{1,18}$", examples=["1700000000000-0"])] = None,
        of: Annotated[
            Whose, Query(description="Each is kept apart; strangers are those without a known key, at either door")
        ] = Whose.PEOPLE,
    ) -> AuditPage:
        """Who changed something, took a model, or sent and fetched files, refused calls included, newest first."""
        page = await trail.page(after, limit, of)
        return AuditPage(entries=list(map(_view, page)), next=page[-1].id if len(page) == limit else None)

    return routes


def _view(recorded: Recorded) -> AuditEntry:
    return AuditEntry(id=recorded.id, at=moment(recorded.at), **vars(recorded.entry))
