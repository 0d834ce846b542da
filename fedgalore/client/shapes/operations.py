"""Agents, keys and tokens, the audit, and the coordinator itself."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

from fedgalore.client.shapes.shape import Shape


class Task(Shape):
    job: str
    round: int


class Agent(Shape):
    """A client that has registered or is expected. `datasets`: training examples by name."""

    name: str
    present: bool
    datasets: dict[str, int]
    software_version: str
    registered: datetime
    last_seen: datetime | None
    task: Task | None
    teams: Sequence[str] = ()


class Key(Shape):
    """An API key without its secret. `team`: where alone it is good."""

    id: str
    name: str
    role: str
    team: str | None = None
    created: datetime


class MadeKey(Key):
    """`key`: the secret, shown this once."""

    key: str


class JoinToken(Shape):
    """A token by which an agent enrols once, without its secret."""

    id: str
    client: str
    created: datetime
    expires: datetime
    used: datetime | None
    expired: bool


class MadeJoinToken(JoinToken):
    """`token`: the secret, shown this once."""

    token: str


class AuditEntry(Shape):
    """A request or an agent's call that changed, took or sent something."""

    id: str
    at: datetime
    key: str
    name: str
    role: str
    address: str
    method: str
    path: str
    outcome: str
    sent_bytes: int
    received_bytes: int
    left_out: int = 0


class Check(Shape):
    ok: bool
    detail: str


class Readiness(Shape):
    """Whether a coordinator can do its work, part by part."""

    ready: bool
    checks: dict[str, Check]
    warnings: list[str]


class Version(Shape):
    version: str
    protocol_version: int
    oldest_protocol_version: int = 0  # that it speaks as well; 0: it does not say


class SignIn(Shape):
    """Where a coordinator's people sign in; without an issuer, API keys alone let in."""

    issuer: str | None
    client_id: str | None
    scopes: str | None
    token: Literal["access_token", "id_token"] | None
