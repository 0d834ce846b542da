"""The version of the model that a task starts from: its weights at the trainer, by the fewest bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from client_agent.cache import blob_named
from client_agent.room import check_room
from fedgalore.chain import Chain, Checkpoint, Cut, Earlier, Trail
from fedgalore.process.blob_ref import BlobRef
from protos import federation_pb2 as pb

if TYPE_CHECKING:
    from client_agent.assignment import SiteContext

# Steps that may round differently than the server's before the next checkpoint sets it right. Each is off by one
# rounding of float32, thousands of times less than a training step, and a rare entry by a code of the last step.
MOST_UNPROVEN_STEPS = 50


class Version:
    """What the task says of the version, and how the trainer comes to hold it."""

    def __init__(self, task: pb.Task, site: SiteContext) -> None:
        """Raises `InvalidExchange`: as `trail_of`."""
        self._task, self._site = task, site
        self.trail = trail_of(task.chain)

    async def bring(self) -> None:
        """By the fewest bytes: by the cuts since the version that the trainer holds, or by those since the checkpoint.

        A trainer that holds nothing draws version 0 itself, where the cuts go back to that.
        """
        trail, thread = self.trail, self._site.thread
        held = await thread.run(lambda trainer: trainer.held)
        if held is None and self._task.chain.starts_at_version_0:
            begun = await thread.run(lambda trainer: trainer.begin(trail.earlier.start))
            held = trail.earlier.start if begun else None
        way = trail.way(held, self._bytes_to_fetch)
        if way.whole:
            await self._take_checkpoint()
        for cut in way.cuts:
            await self._step(cut)

    async def _take_checkpoint(self) -> None:
        checkpoint = self.trail.chain.checkpoint
        weights = await self.download(checkpoint.weights)
        await self._site.thread.run(lambda trainer: trainer.load(weights, checkpoint.id))

    async def _step(self, cut: Cut) -> None:
        """One version further. The checkpoint shows whether the bits are the server's; after many steps that counts."""
        checkpoint, thread = self.trail.chain.checkpoint, self._site.thread
        path = await self.download(cut.blob)
        await thread.run(lambda trainer: trainer.step(path, cut.blob.sha256))
        if cut.blob.sha256 != checkpoint.id:
            return
        exact = await thread.run(lambda trainer: trainer.proves(checkpoint.version, checkpoint.weights.sha256))
        if not exact and await thread.run(lambda trainer: trainer.unproven_steps) >= MOST_UNPROVEN_STEPS:
            await self._take_checkpoint()

    def _bytes_to_fetch(self, blob: BlobRef) -> int:
        return 0 if self._site.cache.find(blob) is not None else blob.size_bytes

    async def download(self, blob: BlobRef) -> Path:
        """A blob that the task names, in the cache."""
        cache = self._site.cache
        if cache.find(blob) is None:
            check_room(
                self._site.settings.work_dir, cache.missing_bytes(blob), f"a download for job {self._task.job_id}"
            )
        return await self._site.transport.download(blob, cache, self._task.job_id, self._task.round)


def trail_of(chain: pb.Chain) -> Trail:
    """The way to a version's weights, as a task tells it.

    Raises:
        InvalidExchange: it names what is no blob.
    """
    cuts = tuple(Cut(cut.version, blob_of(cut.blob)) for cut in chain.cuts)
    earlier = Earlier(blob_named(chain.start, 0).sha256, cuts[: chain.cuts_before_checkpoint])
    checkpoint = Checkpoint(chain.checkpoint_version, blob_of(chain.checkpoint), earlier.end)
    return Trail(earlier, Chain(checkpoint, cuts[chain.cuts_before_checkpoint :]))


def blob_of(reference: pb.BlobRef) -> BlobRef:
    """A blob as a task names it; raises `InvalidExchange` for what is none."""
    return blob_named(reference.sha256, reference.size_bytes)
