"""A model version as a chain: a checkpoint, which is whole weights, and the cuts since. ALGORITHM, "The chain".

A cut is an aggregate as a link of a chain. A version is known by its id: the hash of the cut that made it, or of its
weights where no cut did, as of version 0. A version that has the weights of an earlier one after a rollback has its id
too, so that whoever holds the one holds the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from fedgalore.process.blob_ref import BlobRef

MOST_CUTS = 16  # since a checkpoint: weights are replayed in a short time, and other processors drift no further
MOST_EARLIER = 128  # a task, and a job's document, stay short


@dataclass(frozen=True)
class Cut:
    """The step to `version` from the one before it."""

    version: int
    blob: BlobRef


@dataclass(frozen=True)
class Checkpoint:
    """A version whose weights are whole; `id` is the version's."""

    version: int
    weights: BlobRef
    id: str


@dataclass(frozen=True)
class Chain:
    """How a version's weights come about; `cuts` oldest first."""

    checkpoint: Checkpoint
    cuts: tuple[Cut, ...] = ()

    @classmethod
    def start(cls, weights: BlobRef, version: int = 0) -> Chain:
        """That of version 0, and of a later one that no cut made."""
        return cls(Checkpoint(version, weights, weights.sha256))

    @property
    def id(self) -> str:
        """Of the version at its end."""
        return self.cuts[-1].blob.sha256 if self.cuts else self.checkpoint.id

    @property
    def is_due(self) -> bool:
        """Whether the version at its end has to become a checkpoint: its cuts are as large as weights, or many."""
        return total_bytes(self.blobs[1:]) >= self.checkpoint.weights.size_bytes or len(self.cuts) >= MOST_CUTS

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        """What it is made of: the checkpoint's weights, then the cuts."""
        return (self.checkpoint.weights, *(cut.blob for cut in self.cuts))

    def then(self, cut: Cut) -> Chain:
        """The chain of the version that the cut makes."""
        return Chain(self.checkpoint, (*self.cuts, cut))

    def ended(self, version: int, weights: BlobRef) -> Chain:
        """The chain of the same version once it is a checkpoint."""
        return Chain(Checkpoint(version, weights, self.id))


@dataclass(frozen=True)
class Earlier:
    """The newest of the cuts that led to a checkpoint. Whoever holds the version of id `start` can go on by them."""

    start: str
    cuts: tuple[Cut, ...] = ()

    @property
    def end(self) -> str:
        """The checkpoint's id."""
        return self.cuts[-1].blob.sha256 if self.cuts else self.start

    def then(self, chain: Chain) -> Earlier:
        """What is earlier once the version at the end of `chain`, which follows these cuts, is a checkpoint.

        As many as are together smaller than the checkpoint, but never none: those who were there a round ago go on by
        the last.
        """
        cuts, most = (*self.cuts, *chain.cuts), chain.checkpoint.weights.size_bytes
        kept = min(len(cuts), 1)
        while kept < min(len(cuts), MOST_EARLIER) and total_bytes(c.blob for c in cuts[-kept - 1 :]) < most:
            kept += 1
        first = len(cuts) - kept
        return Earlier(cuts[first - 1].blob.sha256 if first else self.start, cuts[first:])


def goes_down_whole(cut_bytes: int, weights_bytes: int) -> bool:
    """Whether a version is its weights alone, which all clients fetch: a cut would be no smaller."""
    return cut_bytes >= weights_bytes


class Way(NamedTuple):
    """How a client comes to a version: from the checkpoint's whole weights or from what it holds, then by cuts."""

    whole: bool
    cuts: tuple[Cut, ...]


@dataclass(frozen=True)
class Trail:
    """A version as a client is told of it: its chain, and the cuts that led to the checkpoint."""

    earlier: Earlier
    chain: Chain

    @property
    def cuts(self) -> tuple[Cut, ...]:
        """All of them, oldest first."""
        return (*self.earlier.cuts, *self.chain.cuts)

    @property
    def blobs(self) -> tuple[BlobRef, ...]:
        """All that a client may have to fetch."""
        return (*(cut.blob for cut in self.earlier.cuts), *self.chain.blobs)

    def then(self, cut: Cut, made: Chain) -> Trail:
        """That of the version that a cut has made, whose chain is `made`."""
        same = made.checkpoint == self.chain.checkpoint
        return Trail(self.earlier if same else self.earlier.then(self.chain.then(cut)), made)

    def made(self, sha256: str) -> int | None:
        """The version that came with a blob of these."""
        if sha256 == self.chain.checkpoint.weights.sha256:
            return self.chain.checkpoint.version
        return next((cut.version for cut in self.cuts if cut.blob.sha256 == sha256), None)

    def way(self, held: str | None, cost: Callable[[BlobRef], int] = lambda blob: blob.size_bytes) -> Way:
        """The way of the fewest bytes.

        Args:
            held: id of the version that the client holds, if it holds one.
            cost: bytes to fetch for a blob.
        """
        ids, whole = [self.earlier.start, *(cut.blob.sha256 for cut in self.cuts)], Way(True, self.chain.cuts)
        if held not in ids:
            return whole

        def bytes_of(way: Way) -> int:
            return sum(map(cost, self.fetched(way)))

        step_by_step = Way(False, self.cuts[ids.index(held) :])
        return step_by_step if bytes_of(step_by_step) < bytes_of(whole) else whole

    def fetched(self, way: Way) -> list[BlobRef]:
        """The blobs of a way."""
        first = [self.chain.checkpoint.weights] if way.whole else []
        return [*first, *(cut.blob for cut in way.cuts)]


def total_bytes(blobs: Iterable[BlobRef]) -> int:
    """Of all these blobs."""
    return sum(blob.size_bytes for blob in blobs)
