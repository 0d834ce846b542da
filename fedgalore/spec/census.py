"""How much of a model a job trains, by kind of layer. Without torch: jobs, downloads and the command line show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# In the order in which they are shown. `conv1d` is GPT-2's linear layer, `experts` are matrices stacked into one
# parameter, `head` is all outside of the backbone, `other` is what has no layer of a known class.
KINDS = ("linear", "conv1d", "convolution", "experts", "other", "embedding", "norm", "bias", "head")
LEAST_SHARE = 0.5  # of a backbone; a job that wants less says which modules


@dataclass(frozen=True)
class Census:
    """Counts of parameters by kind of layer, those that the job trains and all.

    `ranks_lowered`: by layer, the rank at which a matrix is trained whose smaller side is below the job's rank.
    """

    trained: Mapping[str, int] = field(default_factory=dict)
    parameters: Mapping[str, int] = field(default_factory=dict)
    ranks_lowered: Mapping[str, int] = field(default_factory=dict)

    @property
    def backbone_share(self) -> float:
        """The trained share of the backbone, without its embedding tables: of these a text needs a few rows only."""
        counted = [kind for kind in self.parameters if kind not in ("embedding", "head")]
        total = sum(self.parameters[kind] for kind in counted)
        return sum(self.trained.get(kind, 0) for kind in counted) / total if total else 1.0

    def frozen(self) -> dict[str, int]:
        """Parameters that the job leaves alone, by kind, the most first."""
        left = {kind: count - self.trained.get(kind, 0) for kind, count in self.parameters.items()}
        return {kind: count for kind, count in sorted(left.items(), key=lambda item: -item[1]) if count}

    def summary(self) -> str:
        """One line for people."""
        trained, total = sum(self.trained.values()), sum(self.parameters.values())
        text = f"{trained:,} of {total:,} parameters trained ({_percent(trained, total)}): {_listed(self.trained)}"
        if frozen := self.frozen():
            text += f"; not trained: {_listed(frozen)}"
        if self.ranks_lowered:
            ranks = ", ".join(str(rank) for rank in sorted(set(self.ranks_lowered.values())))
            text += f"; rank lowered to {ranks} in {len(self.ranks_lowered)} smaller layers"
        return text


def _listed(counts: Mapping[str, int]) -> str:
    named = {kind: counts[kind] for kind in KINDS if counts.get(kind)}
    return ", ".join(f"{count:,} {kind}" for kind, count in named.items())


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "-"
