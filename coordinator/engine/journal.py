"""Each change of a job, of its rounds and of its clients as a line of the process' log, in the words of the job's own
log (`coordinator.state.history`). The process that saves a change writes its line."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from coordinator.state.history import line
from coordinator.state.stream_events import StreamEvent

log = structlog.get_logger(__name__)


def write(job_id: str, events: Iterable[StreamEvent]) -> None:
    """A line for each event of a job, in their order."""
    for kind, data in events:
        told = line(kind, data)
        about = {name: data[name] for name in ("round", "client", "code", "by") if data.get(name) is not None}
        facts = {"job": job_id, **about, "what": kind, "reason": told.text}
        match told.level:
            case "debug":
                log.debug("job_event", **facts)
            case "info":
                log.info("job_event", **facts)
            case "warning":
                log.warning("job_event", **facts)
            case "error":
                log.error("job_event", **facts)
