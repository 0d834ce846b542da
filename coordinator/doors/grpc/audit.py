"""The audit of the agents' door: who joined, fetched or sent something, and who was refused.

Polls, questions and reports of progress are not in it, unless the caller was refused.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import grpc

from coordinator.doors.audited import note, shown, write_down
from coordinator.doors.grpc.guard import header
from coordinator.store.audit import Entry, Whose
from coordinator.store.credentials import JOIN_TOKEN, bearer, digest_of, id_of
from protos import federation_pb2 as pb

if TYPE_CHECKING:
    from coordinator.doors.grpc.guard import Context
    from coordinator.store.audit import AuditTrail

AUDITED = {"Enrol", "Register", "DownloadBlob", "SubmitUpdate"}
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
ROLE = "agent"
MOST_AT_ONCE = 1000  # entries of a client in the stream; what is beyond stands in the log alone
MOST_PER_S = 0.2  # in the long run: a round makes three
_KEY_DIGITS = 8  # of the digest of an agent's key, which has no id of its own


@dataclass
class Account:
    """What is known of a call so far. `client`: whose it has shown to be."""

    address: str
    first: Any = None  # the first message
    client: str | None = None
    sent_bytes: int = 0  # of a blob
    received_bytes: int = 0  # of an update


@dataclass
class Share:
    """How much of the agents' stream a client may fill, so that none pushes the others' entries out."""

    at: float  # when `entries` was true, in seconds
    entries: float = MOST_AT_ONCE
    left_out: int = 0  # since the last entry

    def take(self, now: float) -> int | None:
        """How many entries were left out before this one; None: it is left out too."""
        self.entries = min(MOST_AT_ONCE, self.entries + (now - self.at) * MOST_PER_S)
        self.at = now
        if self.entries < 1:
            self.left_out += 1
            return None
        self.entries -= 1
        left_out, self.left_out = self.left_out, 0
        return left_out


class CallAudit:
    """Writes an entry for a call that has ended, however it did."""

    def __init__(self, trail: AuditTrail, clock: Callable[[], float] = time.monotonic) -> None:
        self._trail = trail
        self._shares: defaultdict[str, Share] = defaultdict(lambda: Share(clock()))
        self._clock = clock

    async def write(self, method: str, account: Account, context: Context, status: grpc.StatusCode) -> None:
        """Of a call of this method, such as `SubmitUpdate`; nothing where it is none to be audited."""
        if method not in AUDITED and status not in REFUSED:
            return
        told = _told(account.first)
        secret = bearer(header(context, "authorization"))
        digest = told.key_sha256 if isinstance(told, pb.EnrolRequest) else digest_of(secret) if secret else ""
        entry = Entry(
            key=digest[:_KEY_DIGITS] if account.client else "",
            name=account.client or shown(getattr(told, "client", "")),
            role=ROLE if account.client else "",
            address=account.address,
            method=method,
            path=shown(_about(told)),
            outcome=status.name,
            sent_bytes=account.sent_bytes,
            received_bytes=account.received_bytes,
        )
        if not account.client:
            await write_down(self._trail, entry, Whose.STRANGERS)
            return
        left_out = self._shares[account.client].take(self._clock())
        if left_out is None:
            note(entry)
        else:
            await write_down(self._trail, replace(entry, left_out=left_out), Whose.AGENTS)


def _told(first: Any) -> Any:
    return first.header if isinstance(first, pb.SubmitUpdateRequest) else first


def _about(told: Any) -> str:
    """What a call is about, as a path."""
    if isinstance(told, pb.EnrolRequest):
        return f"/join-tokens/{id_of(JOIN_TOKEN, told.join_token) or ''}"
    parts = [f"/jobs/{told.job_id}"] if getattr(told, "job_id", "") else []
    parts += [f"/rounds/{told.round}"] if getattr(told, "round", 0) else []
    blob = (
        told.sha256 if isinstance(told, pb.DownloadBlobRequest) else getattr(getattr(told, "blob", None), "sha256", "")
    )
    return "".join([*parts, f"/{blob}" if blob else ""])
