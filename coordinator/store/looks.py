"""What the collector saw at its earlier looks, in a file beside the blobs: it outlives this process, and Redis.

Nothing is deleted because something is missing. A blob that no job needs goes after two looks an hour apart at which
nobody needed it, and a job that was there at the last look cannot be gone without a trace.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from pydantic import TypeAdapter

from coordinator.store.blob_store import GRACE_S, SPENT_GRACE_S
from coordinator.store.contradictions import Size


@dataclass(frozen=True)
class Looks:
    """Times are seconds since the epoch."""

    unneeded: Mapping[str, float] = field(default_factory=dict)  # by hash: when a look first found it so
    saves: Mapping[str, int] = field(default_factory=dict)  # by job: how often it had been saved at the last look
    sizes: Mapping[str, Size] = field(default_factory=dict)  # of tables that are no job's
    named: frozenset[str] = frozenset()  # blobs that some job has needed; at the first look, all that were there
    accepted: frozenset[str] = frozenset()  # contradictions that an operator took as they are
    let_go: frozenset[str] = frozenset()  # blobs without a job that an operator gave up
    is_first: bool = True  # nobody has looked yet

    @classmethod
    def read(cls, text: str | None) -> Self:
        """What `to_json` wrote; None: nobody has looked yet.

        Raises:
            ValueError: it is something else.
        """
        return TypeAdapter(cls).validate_json(text) if text is not None else cls()

    def to_json(self) -> str:
        return TypeAdapter(Looks).dump_json(self).decode()

    def then(
        self,
        unneeded: Collection[str],
        needed: Collection[str],
        saves: Mapping[str, int],
        sizes: Mapping[str, Size],
        now: float,
    ) -> Looks:
        """After a look that found these blobs and jobs. A blob that was needed in between starts anew."""
        clocks = {sha256: min(now, self.unneeded.get(sha256, now)) for sha256 in unneeded}
        named = frozenset(unneeded) if self.is_first else self.named.intersection(unneeded)
        let_go = self.let_go.intersection(unneeded)
        return replace(
            self,
            unneeded=clocks,
            saves=dict(saves),
            sizes=dict(sizes),
            named=named.union(needed),
            let_go=let_go,
            is_first=False,
        )

    def refused(self) -> Looks:
        """After a look that found a contradiction: all that was unneeded before it may be missed."""
        return replace(self, unneeded={})

    def unexplained(self, ripe: Collection[str], spent: Container[str]) -> frozenset[str]:
        """Of ripe blobs, those that a job needed once, and nothing says that it is done with them."""
        return frozenset(
            sha256 for sha256 in self.named.intersection(ripe) if sha256 not in spent and sha256 not in self.let_go
        )

    def ripe(self, spent: Container[str], now: float) -> frozenset[str]:
        """Blobs that an earlier look found unneeded, long enough ago: `SPENT_GRACE_S` for what is `spent`, else
        `GRACE_S`."""
        return frozenset(
            sha256
            for sha256, since in self.unneeded.items()
            if now - since > (SPENT_GRACE_S if sha256 in spent else GRACE_S)
        )
