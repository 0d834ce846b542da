"""Files being received: what they are called, how far they have come, and which of them nobody will go on with."""

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
    """Names a partial file: one upload is (job, round, client, content)."""

    job_id: str
    round: int
    client: str
    sha256: str

    def __str__(self) -> str:
        return self.place + self.sha256

    @property
    def place(self) -> str:
        """What the keys of all files of this client in this round begin with."""
        return _SEPARATOR.join((_PREFIX, self.job_id, str(self.round), self.client, ""))


def received_bytes(blobs: BlobStore, key: PartialKey, blob: BlobRef) -> int:
    """How much of this upload the server holds; 0 for one it has not seen.

    All of it when the call that brought it ended between the file's move to the blobs and its report to the round.
    """
    received = blobs.partial_bytes(str(key))
    if received is None:
        return blob.size_bytes if blobs.holds(blob) else 0
    return received


async def clean_partials(blobs: BlobStore, rounds_in_flight: Callable[[], Awaitable[set[tuple[str, int]]]]) -> int:
    """Removes partial files of rounds that are not in flight; how many. The driver calls it now and then.

    Args:
        rounds_in_flight: asked for (job id, round number) of every round in flight, once the files are listed.

    Raises:
        StateUnavailable: nothing was removed.
    """
    # Files first: a round that opens after the look at the jobs has none among them.
    keys = [key for key in await asyncio.to_thread(blobs.partial_keys) if key.startswith(_PREFIX + _SEPARATOR)]
    if not keys:
        return 0
    wanted = {(job_id, str(number)) for job_id, number in await rounds_in_flight()}
    stale = [key for key in keys if tuple(key.split(_SEPARATOR)[1:3]) not in wanted]
    for key in stale:
        await asyncio.to_thread(blobs.discard_partial, key)
        reach(Fault.PARTIALS_CLEANED)
    return len(stale)
