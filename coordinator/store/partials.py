"""Partial files of updates: their keys, how much of an update has arrived, and which files are of closed rounds."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from coordinator.store.blob_store import BlobStore
from fedgalore.process.blob_ref import BlobRef
from fedgalore.process.faults import Fault, reach

_PREFIX = "update"
_SEPARATOR = "+"  # no job, client or hash has one


@dataclass(frozen=True)
class PartialKey:
    """Names a partial file. An upload is (job, round, client, content)."""

    job_id: str
    round: int
    client: str
    sha256: str

    def __str__(self) -> str:
        return self.place + self.sha256

    @property
    def place(self) -> str:
        """The start of the keys of all partial files of this client in this round."""
        return _SEPARATOR.join((_PREFIX, self.job_id, str(self.round), self.client, ""))


def received_bytes(blobs: BlobStore, key: PartialKey, blob: BlobRef) -> int:
    """Bytes of this upload that the server holds; 0 where it has none.

    If an earlier call ended after it had stored the blob and before it had reported it to the round, that is all bytes.
    """
    received = blobs.partial_bytes(str(key))
    if received is None:
        return blob.size_bytes if blobs.holds(blob) else 0
    return received


def discard_partials(blobs: BlobStore, job_id: str) -> int:
    """Deletes the partial files of a job's updates. Returns the bytes freed."""
    freed = 0
    for key in blobs.partial_keys():
        if key.startswith(_SEPARATOR.join((_PREFIX, job_id, ""))):
            freed += blobs.partial_bytes(key) or 0
            blobs.discard_partial(key)
    return freed


async def clean_partials(blobs: BlobStore, rounds_in_flight: Callable[[], Awaitable[set[tuple[str, int]]]]) -> int:
    """Deletes partial files of rounds that are not in flight. Returns how many. The driver calls it now and then.

    Args:
        rounds_in_flight: gives (job id, round number) of every round in flight. It is called after the files are
            listed.

    Raises:
        StateUnavailable: nothing was deleted.
    """
    # The files are listed first: a round that opens after the look at the jobs has no file in the list.
    keys = [key for key in await asyncio.to_thread(blobs.partial_keys) if key.startswith(_PREFIX + _SEPARATOR)]
    if not keys:
        return 0
    wanted = {(job_id, str(number)) for job_id, number in await rounds_in_flight()}
    stale = [key for key in keys if tuple(key.split(_SEPARATOR)[1:3]) not in wanted]
    for key in stale:
        await asyncio.to_thread(blobs.discard_partial, key)
        reach(Fault.PARTIALS_CLEANED)
    return len(stale)
