"""What proves who somebody is: API keys of people, join tokens and keys of agents. Pure.

Every secret holds 256 random bits, so its SHA-256 is all that is kept of it: a slow hash would add nothing.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass, field
from enum import StrEnum

KEY, JOIN_TOKEN = "fgk", "fgj"  # what an API key and a join token begin with
EVERYWHERE = "*"  # in place of a team: all teams, and what belongs to none
_FORM = re.compile(r"(fg[jk])_([0-9a-f]{8})_[0-9a-f]{64}")


class Role(StrEnum):
    """A viewer looks at everything; an operator changes things as well."""

    VIEWER = "viewer"
    OPERATOR = "operator"


@dataclass(frozen=True)
class ApiKey:
    """A key of the REST door, without its secret. `team`: the one that its role is good in; empty: all."""

    id: str
    name: str
    role: Role
    digest: str
    created_at: float
    team: str = ""


@dataclass(frozen=True)
class JoinToken:
    """Lets a client bring its key, once; without the token's secret. Times in seconds since the epoch."""

    id: str
    client: str
    digest: str
    created_at: float
    expires_at: float
    used_at: float | None = None


@dataclass(frozen=True)
class Secret:
    """A new secret: shown once, as `text`."""

    id: str
    text: str = field(repr=False)
    digest: str


def new_secret(kind: str) -> Secret:
    """A secret of this kind, `KEY` or `JOIN_TOKEN`."""
    identity = secrets.token_hex(4)
    text = f"{kind}_{identity}_{secrets.token_hex(32)}"
    return Secret(identity, text, digest_of(text))


def digest_of(secret: str) -> str:
    """SHA-256 in hexadecimal digits."""
    return hashlib.sha256(secret.encode()).hexdigest()


def id_of(kind: str, secret: str) -> str | None:
    """The id that a secret of this kind names; None for anything else."""
    match = _FORM.fullmatch(secret)
    return match[2] if match and match[1] == kind else None


def bearer(header: str | None) -> str | None:
    """The secret in an `Authorization` header (RFC 6750); None without one."""
    scheme, _, secret = (header or "").partition(" ")
    return secret.strip() or None if scheme.lower() == "bearer" else None
