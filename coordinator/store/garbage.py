"""Which blobs are still needed: everything else is deleted, by reference and not by age.

A job needs its base model, the template of its downloads, which is its version 0 as well, and the weights of its newest
model versions. One that goes on also needs the weights of version 0, what lies beside the newest ones, and the updates
of its round in flight. What a closed round or a superseded version named is spent and goes soon; what nobody has named
yet is given time for its reference to come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

from coordinator.state.job_state import Job
from coordinator.state.round_state import BlobRef, ModelVersion, Round
from coordinator.store.binding import Binding
from coordinator.store.blob_store import BlobStore
from coordinator.store.redis_state_store import RedisStateStore

KEEP_VERSIONS = 3  # newest versions of a job's model that can be downloaded
ALL_JOBS = 2**31


@dataclass
class _Known:
    """What is remembered of one job, so that each of its rounds is read once."""

    closed: int = 0  # rounds up to this number have been looked at
    made: list[ModelVersion] = field(default_factory=list)  # the newest versions that rounds made, oldest first
    needed: frozenset[str] = frozenset()
    spent: set[str] = field(default_factory=set)
    final: bool = False  # nothing changes any more


class Collector:
    """Deletes what no job needs. Safe beside running jobs, other processes and other collectors."""

    def __init__(self, store: RedisStateStore, blobs: BlobStore, binding: Binding) -> None:
        self._store = store
        self._blobs = blobs
        self._binding = binding
        self._jobs: dict[str, _Known] = {}

    async def collect(self, now: float) -> int:
        """One sweep; bytes freed. Whatever is raised, no blob of any job was deleted.

        Raises:
            NotBound: the blobs are not those of this state store.
            RuntimeError: a job cannot be read, so nobody knows what it needs.
            StateUnavailable, OSError: one side does not answer.
        """
        job_ids = await self._store.job_ids(None, ALL_JOBS)
        changing = [job_id for job_id in job_ids if job_id not in self._jobs or not self._jobs[job_id].final]
        jobs = await self._store.load_many(changing)
        if unread := sorted(set(changing) - {job.id for job in jobs}):
            raise RuntimeError(f"cannot read {', '.join(unread)}; no blob is deleted while one may be needed there")
        for job in jobs:
            await self._look_at(job)
        # Last: a Redis that was emptied since the first line has lost its id as well.
        await self._binding.check()
        known = [self._jobs[job_id] for job_id in job_ids]
        needed = frozenset[str]().union(*(one.needed for one in known))
        spent = frozenset[str]().union(*(one.spent for one in known))
        freed = await asyncio.to_thread(self._blobs.sweep, needed, spent, now)
        left = await asyncio.to_thread(lambda: {sha256 for sha256 in spent if self._blobs.exists(sha256)})
        for one in known:
            one.spent &= left
        return freed

    async def _look_at(self, job: Job) -> None:
        known = self._jobs.setdefault(job.id, _Known())
        for closed in await self._closed_since(job, known.closed):
            known.closed = closed.number
            known.spent |= {one.receipt.blob.sha256 for one in closed.participants.values() if one.receipt is not None}
            if closed.result is not None:
                known.made.append(closed.result)
        known.spent |= {blob.sha256 for blob in _superseded(known.made)}
        known.made = known.made[-KEEP_VERSIONS:]
        known.needed = frozenset(blob.sha256 for blob in _needed(job, known.made))
        known.final = job.status.is_final

    async def _closed_since(self, job: Job, number: int) -> list[Round]:
        """Closed rounds after this one, in order; at the first look at a job the newest ones that matter, not all."""
        found: list[Round] = []
        versions = 0
        for each in range(job.rounds_opened, number, -1):
            closed = await self._store.closed_round(job.id, each)
            if closed is None:  # in flight
                continue
            found.append(closed)
            versions += closed.result is not None
            if number == 0 and versions > KEEP_VERSIONS:
                break
        return found[::-1]


def _needed(job: Job, made: list[ModelVersion]) -> Iterator[BlobRef]:
    """The blobs that a job needs; `made`: the newest versions that its closed rounds made, oldest first."""
    if job.prepared is None:
        return
    yield from (blob for _, blob in job.prepared.export)
    yield from (blob for _, blob in job.prepared.base_model)  # of an ended job: adapters tell what is new to it
    for version in [job.prepared.model, *made][-KEEP_VERSIONS:]:
        yield version.weights
    if job.status.is_final:
        return
    yield job.prepared.model.weights
    if job.model is not None:
        yield job.model.weights
        yield from _beside_weights(job.model)
    if job.round is not None:
        yield from (one.receipt.blob for one in job.round.participants.values() if one.receipt is not None)


def _superseded(made: list[ModelVersion]) -> Iterator[BlobRef]:
    for version in made[:-1]:
        yield from _beside_weights(version)
    for version in made[:-KEEP_VERSIONS]:
        yield version.weights


def _beside_weights(model: ModelVersion) -> Iterator[BlobRef]:
    yield from (part for part in (model.aggregate, model.state, model.residue) if part is not None)
