"""What every task's inputs share: a batch, the mark of what the loss leaves out, the error of what does not fit."""

from __future__ import annotations

from torch import Tensor

IGNORED = -100  # label of a token that the loss leaves out

Batch = dict[str, Tensor]


class TaskError(ValueError):
    """The model or an example does not fit the job; the message names the field and the remedy."""
