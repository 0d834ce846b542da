"""Taking a state as it is: a Redis that was restored from a backup, or has lost keys for good.

Only a person can say so. Until then nothing is deleted, and of a wrong Redis nothing is written either.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Collection
from dataclasses import dataclass

from coordinator.store.binding import Binding, NotBound
from coordinator.store.blob_store import BlobStore, Held
from coordinator.store.census import take
from coordinator.store.derived import fill_in
from coordinator.store.garbage import Collector
from coordinator.store.looks import Looks
from coordinator.store.redis_state_store import RedisStateStore


class NotAccepted(RuntimeError):
    """Jobs are left whose blobs nobody knows; the message names them and the remedies."""

    def __init__(self, job_ids: Collection[str]) -> None:
        more = f", and {len(job_ids) - 5} more" if len(job_ids) > 5 else ""
        super().__init__(
            f"the state is not taken as it is, because the records of jobs {', '.join(sorted(job_ids)[:5])}{more} are "
            "gone or cannot be read, and their models would be deleted. Run the version of this software that wrote "
            "them, restore Redis from a backup, or give up each of them with `fedgalore jobs delete <id> --cancel`"
        )


@dataclass(frozen=True)
class Findings:
    """What does not fit.

    `not_bound`: why Redis and blobs do not belong together; `held.unneeded`: what no job names.
    """

    not_bound: str | None
    contradictions: tuple[str, ...]
    held: Held


async def look(store: RedisStateStore, blobs: BlobStore) -> Findings:
    """Changes nothing.

    Raises:
        StateUnavailable, OSError: the state store or the blob store does not answer.
    """
    binding = Binding(store, blobs)
    try:
        await binding.check()
        not_bound = None
    except NotBound as error:
        not_bound = str(error)
    collector = Collector(store, blobs, binding)
    found = await collector.contradictions(_looked(blobs))
    return Findings(not_bound, tuple(sorted(found)), await asyncio.to_thread(blobs.held, collector.needed))


async def accept(store: RedisStateStore, blobs: BlobStore) -> Findings:
    """Takes this Redis as that of the blobs, and what it holds of jobs as all there is. What was not found before.

    Jobs that the lists of jobs lack are entered again. Blobs that no job names are deleted an hour later.

    Raises:
        NotAccepted: of a job something is left, and its record is gone or cannot be read. Nothing was changed.
        StateUnavailable, OSError: the state store or the blob store does not answer.
    """
    await _enter_jobs(store)
    await fill_in(store)
    findings = await look(store, blobs)
    store_id = await store.store_id(uuid.uuid4().hex)
    assert store_id is not None
    await asyncio.to_thread(blobs.bind_anew, store_id)
    await asyncio.to_thread(blobs.note_age, await store.age())
    collector = Collector(store, blobs, Binding(store, blobs))
    left = await collector.contradictions(Looks())  # of what is there: what is gone is given up
    looks = Looks(accepted=frozenset(left), let_go=frozenset(findings.held.unneeded))
    await asyncio.to_thread(blobs.note_looks, looks.to_json())
    await store.note_refusal(None)
    return findings


async def _enter_jobs(store: RedisStateStore) -> None:
    """Puts jobs whose record is there into the lists of jobs."""
    census = await take(store.connection)
    jobs = await store.load_many([job_id for job_id, keys in census.jobs.items() if keys.has_record])
    partial = {job_id for job_id, keys in census.jobs.items() if keys.has_record or keys.is_partial}
    if unknown := partial - {job.id for job in jobs}:
        raise NotAccepted(unknown)
    for job in jobs:
        await store.enter(job)


def _looked(blobs: BlobStore) -> Looks:
    try:
        return Looks.read(blobs.looks())
    except ValueError:  # damaged, which is among what is accepted
        return Looks()
