"""What a step of a job writes, as values: the job, its version, and the lease that it is written under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from coordinator.state.job_state import Job
from coordinator.state.round_state import Effect, Round
from coordinator.state.stream_events import StreamEvent


class Fence(NamedTuple):
    """The lease that a write is made under, and its token."""

    lease: str
    token: int


Stored = tuple[str | None, str | None]  # a job's document and version as they lie in the store
NOTHING: Stored = (None, None)


class VersionedJob(NamedTuple):
    """A job and the version its next save has to name."""

    job: Job
    version: int


@dataclass(frozen=True)
class Change:
    """All that a step of a job writes, at once or not at all."""

    before: VersionedJob
    after: Job
    events: Sequence[StreamEvent]
    effects: Sequence[Effect]
    closed: Round | None
    fence: Fence | None = None
