"""A job's events as server-sent events (WHATWG HTML, 9.2)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

from coordinator.engine.state_reader import StateReader
from coordinator.state.errors import DomainError
from coordinator.state.job_state import Job

BLOCK_S = 2.0  # the longest that the end of the process waits for a silent stream
HEARTBEAT_S = 15.0
FROM_THE_START = "0"


async def stream(reader: StateReader, job: Job, after: str, stopping: asyncio.Event) -> AsyncIterator[str]:
    """All events after the id `after`, then new events as they happen, then `end` once the job is final.

    Ends early when the process stops or the state store does not answer; the client comes back with Last-Event-ID.
    """
    yield "retry: 2000\n\n"
    spoken = time.monotonic()
    while not stopping.is_set():
        # As of before the events are read: whatever a final job did is in its stream by then.
        final = job.status.is_final
        try:
            rows = await reader.events(job, after, None if final else BLOCK_S)
            for after, kind, data in rows:
                yield _format(kind, data, after)
            if final and not rows:
                yield _format("end", {})
                return
            job = await reader.job(job.id)
        except DomainError:
            return
        if rows:
            spoken = time.monotonic()
        elif time.monotonic() - spoken >= HEARTBEAT_S:
            spoken = time.monotonic()
            yield ": still here\n\n"


def _format(kind: str, data: dict[str, Any], id: str | None = None) -> str:
    head = f"id: {id}\n" if id else ""
    return f"{head}event: {kind}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
