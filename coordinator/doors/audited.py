"""What either door writes down of those who call: a line in the log and an entry in the audit."""

from __future__ import annotations

import structlog

from coordinator.doors.unbroken import to_its_end
from coordinator.state.errors import StateUnavailable
from coordinator.store.audit import AuditTrail, Entry, Whose
from fedgalore.process.plain import plain

MOST_CHARACTERS = 500
log = structlog.get_logger(__name__)


async def write_down(trail: AuditTrail, entry: Entry, whose: Whose) -> None:
    """Returns when it is written, or Redis has no answer. A caller that is cancelled meanwhile is cancelled then."""
    note(entry, whose)
    await to_its_end(_kept(trail, entry, whose))


def note(entry: Entry, whose: Whose = Whose.AGENTS) -> None:
    """The line in the log."""
    if whose is Whose.STRANGERS:  # anybody can cause these: the log leaves some out, the trail keeps the newest
        log.warning("request_audited", **vars(entry))
    else:
        log.info("request_audited", **vars(entry))


def shown(text: str) -> str:
    """The start of what a caller wrote, in `plain` letters, of which one may take ten."""
    return plain(text[:MOST_CHARACTERS])[:MOST_CHARACTERS]


async def _kept(trail: AuditTrail, entry: Entry, whose: Whose) -> None:
    try:
        await trail.add(entry, whose)
    except StateUnavailable as error:
        log.error("audit_failed", reason=str(error))
