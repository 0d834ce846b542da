"""The learning rates of a round. Without torch: the coordinator's doors ask for them.

A job that names no `local.learning_rate` gets one that follows its model. A step of Adam changes each entry of a matrix
by about the learning rate, so by `rate / size` of itself, where `size` is the root mean square of its entries. What an
input passes through on its way changes by the sum of that over all `n` trained matrices:

    targets = size / n,   head = 1 / width

Relative steps as in Adafactor (arXiv 1804.04235); `size` is the median over the matrices, so that one that was made by
hand or is zero decides nothing. A new head has no size of its own: at `1 / width`, where `width` counts its inputs, a
step moves an output by about the mean size of an input, as in muP (arXiv 2203.03466).

`local.schedule` shapes both over the job's rounds, as the schedulers of transformers of these names do over steps. With
`t` the rounds behind a version, `u` of warm-up, `T` in all, `f` the final share and `p = (t - u) / (T - u)`, it leaves

    (t + 1) / (u + 1)                        while t < u, and then
    1,                                       constant
    1 - (1 - f) p,                           linear
    f + (1 - f) (1 + cos(pi p)) / 2          cosine

A rate that a job names stays as it is where no schedule is named. Others fall in a straight line towards half of
themselves, and leave the share of the last step free in the first round too, so that momentum warms them up: else the
first round, in which a new head knows nothing, would count more than any other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import cos, pi
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec
    from fedgalore.spec.plan import TrainingPlan

FEWEST = 12  # matrices that share the whole step: two blocks of a transformer
MOST = 1.0  # so that rate x weight_decay stays below 1
_EXPERT = re.compile(r"\bexperts\.\d+")


@dataclass(frozen=True)
class Rates:
    """The learning rates that hold in one round: of the backbone, and of the head."""

    targets: float
    head: float


def highest_rates(spec: JobSpec, plan: TrainingPlan) -> Rates:
    """Those that a schedule goes by: no round has higher ones."""
    local = spec.local
    if local.learning_rate is not None:
        head = local.learning_rate if local.head_learning_rate is None else local.head_learning_rate
        return Rates(local.learning_rate, head)
    assert plan.size is not None, "a plan for a job that names no learning rate tells the matrices' size"
    targets = min(MOST, plan.size / max(FEWEST, _passed(plan)))
    if local.head_learning_rate is not None:
        return Rates(targets, local.head_learning_rate)
    return Rates(targets, 1 / plan.new_head_width if plan.new_head_width else targets)


def rates_of(spec: JobSpec, plan: TrainingPlan, behind: int, has_last_step: bool) -> Rates:
    """What is left of the job's rates in the round after `behind` others, beside the share of the last step.

    Without a last step all of a named rate is left: `fedgalore.momentum`.
    """
    highest, local, rest = highest_rates(spec, plan), spec.local, 1 - spec.method.momentum

    def left(is_named: bool) -> float:
        return (rest if has_last_step or not is_named else 1.0) * _share(spec, behind, is_named)

    is_named = local.learning_rate is not None
    head = left(is_named or local.head_learning_rate is not None)
    return Rates(left(is_named) * highest.targets, head * highest.head)


def _share(spec: JobSpec, behind: int, is_named: bool) -> float:
    """What the schedule leaves of a rate in the round after `behind` others."""
    local, warm = spec.local, spec.local.warmup_rounds
    if behind < warm:
        return (behind + 1) / (warm + 1)
    done = min((behind - warm) / (spec.rounds.count - warm), 1)
    schedule, final = local.schedule, local.final_share or 0.0
    if schedule is None:
        schedule, final = ("constant", 1.0) if is_named else ("linear", 0.5)
    if schedule == "constant":
        return 1.0
    return 1 - (1 - final) * done if schedule == "linear" else final + (1 - final) * (1 + cos(pi * done)) / 2


def remedy(spec: JobSpec, plan: TrainingPlan) -> str:
    """What to do where training diverges, in words."""
    if spec.local.learning_rate is not None:
        return "lower local.learning_rate"
    return f"name a local.learning_rate below {highest_rates(spec, plan).targets:.2g}, the job's highest"


def _passed(plan: TrainingPlan) -> int:
    """Through how many of the trained matrices an input passes; of a layer's experts it is one."""
    return len({_EXPERT.sub("experts", target.parameter) for target in plan.targets})
