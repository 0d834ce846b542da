"""Partial files of updates: their keys, how much of an update has arrived, and which nobody waits for any more."""

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
    """Names a partial file. An upload is (job, version that it is for, client, content).

    What came of it in a round that was abandoned counts in the next try.
    """

    job_id: str
    version: int
    client: str
    sha256: str

    def __str__(self) -> str:
        return self.place + self.sha256

    @property
    def place(self) -> str:
        """The start of the keys of all partial files of this client for this version."""
        return _SEPARATOR.join((_PREFIX, self.job_id, str(self.version), self.client, ""))


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
    for key in blobs.partial_keys(_SEPARATOR.join((_PREFIX, job_id, ""))):
        freed += blobs.partial_bytes(key) or 0
        blobs.discard_partial(key)
    return freed


async def clean_partials(blobs: BlobStore, versions_to_come: Callable[[], Awaitable[set[tuple[str, int]]]]) -> int:
    """Deletes partial files for versions that exist, or will not. Returns how many. The driver calls it now and then.

    Args:
        versions_to_come: gives (job id, next version) of every active job. It is called after the files are listed.

    Raises:
        StateUnavailable: nothing was deleted.
    """
    # The files are listed first: a job that is posted after the look at the jobs has no file in the list.
    keys = await asyncio.to_thread(blobs.partial_keys, _PREFIX + _SEPARATOR)
    if not keys:
        return 0
    wanted = {(job_id, str(version)) for job_id, version in await versions_to_come()}
    stale = [key for key in keys if tuple(key.split(_SEPARATOR)[1:3]) not in wanted]
    for key in stale:
        await asyncio.to_thread(blobs.discard_partial, key)
        reach(Fault.PARTIALS_CLEANED)
    return len(stale)
