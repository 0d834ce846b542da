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
) -> tuple[str, str]:
    """What is to be looked at, and what of that may leave the site.

    Weighs each row of the batch by the received weights, which the task holds afterwards. Rows that are bad before any
    training are no matter of the rate; where all rows are, it is the weights.
    """
    what = f"the loss became {loss} at step {step} of round {round_number}"
    task.load_weights(received)
    bad = [example for example in batch if not _is_finite(task, example, class_weights)]
    precision = f"local.precision ({task.spec.local.precision})"
    if bad and len(bad) < len(batch):
        gives = "gives such a loss with the weights that the round started from"
        told = f"{what}, and {len(bad)} of its {len(batch)} examples {gives}; look at {precision}"
        row = bad[0].get("row", "?")
        more = f"look at the row, at what model.source makes of it, and at {precision}"
        return f"row {row}: {what}, and this row {gives}; {more}", told
    words = f"{what}; {remedy(task.spec, task.plan)}, or look at this site's examples where no other site has it"
    if bad or step == 1:
        back = f", and go back to an earlier version ({_BACK}) where one had a finite loss" if round_number > 1 else ""
        words = (
            f"{what}, and the weights that the round started from give such a loss before any training; look at "
            f"model.source, at {precision}, and at this site's examples{back}"
        )
    return words, words


def words_of_evaluation(task: TaskModel, batch: Sequence[Example], loss: float) -> tuple[str, str]:
    """What is to be looked at where the loss of the evaluated weights, which the task holds, is not finite.

    And what of that may leave the site.
    """
    bad = [example for example in batch if not _is_finite(task, example)]
    row = (bad or batch)[0].get("row", "?")
    dtype = f"model.dtype ({task.spec.model.dtype})"
    if bad and len(bad) < len(batch):
        told = f"the model's loss on {len(bad)} of {len(batch)} examples is {loss}; look at {dtype}"
        more = f"look at the row, at what model.source makes of it, and at {dtype}"
        return f"row {row}: the model's loss on it is {loss}; {more}", told
    earlier = f"{remedy(task.spec, task.plan)}, and go back to an earlier version ({_BACK})"
    looks = f"look at model.source, at {dtype}, and, if it was finite in earlier rounds, {earlier}"
    what = f"the model's loss on them is {loss}; {looks}"
    return f"row {row} and those beside it: {what}", f"{len(batch)} examples: {what}"


@torch.no_grad()
def _is_finite(task: TaskModel, example: Example, class_weights: Tensor | None = None) -> bool:
    return math.isfinite(task.loss(task.collate([example]), class_weights)[0].item())
