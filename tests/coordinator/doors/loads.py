"""Counts how often a call reads a job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from coordinator.state.job_state import Job
from coordinator.store.redis_state_store import RedisStateStore


@contextmanager
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The ids of the jobs that this process reads from Redis inside the block, an id for each read."""
    ids: list[str] = []
    read = RedisStateStore._read

    def counting(store: RedisStateStore, job_id: str, document: str) -> Job:
        ids.append(job_id)
        return read(store, job_id, document)

    with monkeypatch.context() as patched:
        patched.setattr(RedisStateStore, "_read", counting)
        yield ids
