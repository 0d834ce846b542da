"""Counts how often a call reads and validates a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from coordinator.state.job_state import Job


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The ids of the jobs that this process reads from Redis inside the block, an id for each read."""
    ids: list[str] = []
    read = Job.from_json

    def from_json(text: str) -> Job:
        job = read(text)
        ids.append(job.id)
        return job

    with monkeypatch.context() as patched:
        patched.setattr(Job, "from_json", from_json)
        yield ids
