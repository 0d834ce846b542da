"""What every task's inputs share: a batch, the mark of what the loss leaves out, the error of what does not fit."""

from __future__ import annotations

from torch import Tensor

from fedgalore.data.errors import TaskError as TaskError  # where tasks look for it

IGNORED = -100  # label of a token that the loss leaves out

Batch = dict[str, Tensor]
