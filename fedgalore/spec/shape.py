"""What of a model the memory of its passes hangs on, in numbers of numbers. Without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelShape:
    """Counts of one model; 0 where it has no such thing.

    `parameters`: all of them, a shared one once. `inner`: inputs and outputs of all linear layers of the backbone
    together, which a pass has for each token; of experts those that a token goes through. `blocks`: parts that
    activation checkpointing computes again, and `between`: numbers a token that each of them starts from. `outputs`:
    logits of a token, of a model that writes.
    """

    parameters: int = 0
    inner: int = 0
    blocks: int = 0
    between: int = 0
    outputs: int = 0
