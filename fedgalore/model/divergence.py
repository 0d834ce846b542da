"""Why a loss is not finite, in words for a person: a row of the site, the received weights, or the learning rate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedgalore.data.examples import Example
from fedgalore.model.task import TaskModel
from fedgalore.spec.rates import remedy

_BACK = "`fedgalore jobs rollback`"


def words_of_loss(
    task: TaskModel,
    received: Mapping[str, Tensor],
    batch: Sequence[Example],
    class_weights: Tensor | None,
    loss: float,
    step: int,
    round_number: int,
) -> str:
    """What is to be looked at. Weighs each row of the batch by the received weights, which the task holds afterwards.

    Rows that are bad before any training are no matter of the rate; where all rows are, it is the weights.
    """
    what = f"the loss became {loss} at step {step} of round {round_number}"
    task.load_weights(received)
    bad = [example for example in batch if not _is_finite(task, example, class_weights)]
    precision = f"local.precision ({task.spec.local.precision})"
    if bad and len(bad) < len(batch):
        return (
            f"row {bad[0].get('row', '?')}: {what}, and this row gives such a loss with the weights that the round "
            f"started from; look at the row, at what model.source makes of it, and at {precision}"
        )
    if bad or step == 1:
        back = f", and go back to an earlier version ({_BACK}) where one had a finite loss" if round_number > 1 else ""
        return (
            f"{what}, and the weights that the round started from give such a loss before any training; look at "
            f"model.source, at {precision}, and at this site's examples{back}"
        )
    return f"{what}; {remedy(task.spec, task.plan)}, or look at this site's examples where no other site has it"


def words_of_evaluation(task: TaskModel, batch: Sequence[Example], loss: float) -> str:
    """What is to be looked at where the loss of the evaluated weights, which the task holds, is not finite."""
    bad = [example for example in batch if not _is_finite(task, example)]
    row = (bad or batch)[0].get("row", "?")
    if bad and len(bad) < len(batch):
        return (
            f"row {row}: the model's loss on it is {loss}; look at the row, at what model.source makes of it, and at "
            f"model.dtype ({task.spec.model.dtype})"
        )
    return (
        f"row {row} and those beside it: the model's loss on them is {loss}; look at model.source, at model.dtype "
        f"({task.spec.model.dtype}), and, if it was finite in earlier rounds, {remedy(task.spec, task.plan)}, and "
        f"go back to an earlier version ({_BACK})"
    )


@torch.no_grad()
def _is_finite(task: TaskModel, example: Example, class_weights: Tensor | None = None) -> bool:
    return math.isfinite(task.loss(task.collate([example]), class_weights)[0].item())
