"""Which blobs are still needed: everything else is deleted, by reference and not by age.

Needed are a job's base model and template, its newest model versions, and the updates of its round in flight. An update
is not needed any more once its round has closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from coordinator.blob_store import BlobStore
from coordinator.engine import Engine
from coordinator.job import BlobRef, Job
from coordinator.round import ModelVersion, Round

KEEP_VERSIONS = 3  # newest versions of a job's model that can be downloaded
GRACE_S = 3600.0  # a blob younger than this may be waiting for its reference to be written


async def collect(engine: Engine, blobs: BlobStore, now: float) -> int:
    """Deletes what no job needs; bytes freed. Safe beside running jobs and other processes.

    Raises:
        StateUnavailable: nothing was deleted.
        OSError: the disk refuses.
    """
    needed: set[str] = set()
    after: str | None = None
    while page := await engine.list(after=after):
        for job in page:
            needed |= {blob.sha256 for blob in referenced(job, await engine.rounds(job.id))}
        after = page[-1].id
    return await asyncio.to_thread(blobs.sweep, needed, GRACE_S, now)


def referenced(job: Job, rounds: list[Round]) -> Iterator[BlobRef]:
    """The blobs that a job with these rounds needs."""
    if job.prepared is not None:
        yield from (blob for _, blob in (*job.prepared.base_model, *job.prepared.export))
        yield from _of_version(job.prepared.model)
    if job.model is not None:
        yield from _of_version(job.model)
    versions = [entry.result for entry in rounds if entry.result is not None]
    for version in versions[-KEEP_VERSIONS:]:
        yield version.weights
    if job.round is not None:
        yield from (one.receipt.blob for one in job.round.participants.values() if one.receipt is not None)


def _of_version(model: ModelVersion) -> Iterator[BlobRef]:
    yield from (part for part in (model.weights, model.aggregate, model.state, model.residue) if part is not None)
