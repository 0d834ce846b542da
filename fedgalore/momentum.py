"""Global momentum (FedCM, arXiv 2106.10874): every client moves along the federation's last step while it trains.

With a share `mu` and the last step `v_t`, each of a client's `K` steps also moves its weights by `mu v_t / K`, and it
learns at `(1 - mu)` of its rates. Before it sends, it takes those moves back: its update holds its own change alone.
The server adds `mu v_t` to the clients' mean change, so that `v_{t+1} = rate * mean + mu v_t`. Methods know nothing of
it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedgalore.deltas import Lookup, change_in
from fedgalore.maths.projector import orient
from fedgalore.model.task import TaskModel
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Target


@dataclass(frozen=True)
class Rates:
    """The learning rates that hold in one round: of the backbone, and of the head."""

    targets: float
    head: float


def rates_of(spec: JobSpec, has_last_step: bool) -> Rates:
    """What is left of the job's rates beside the share of the last step; all of them where there is no last step."""
    share = 1 - spec.method.momentum if spec.method.momentum and has_last_step else 1.0
    local = spec.local
    targets = share * local.learning_rate
    return Rates(targets, share * local.head_learning_rate if local.head_learning_rate is not None else targets)


class MomentumSteps:
    """The moves of one client along the last step, on the model's device."""

    def __init__(self, weights: Sequence[tuple[Tensor, Tensor]], steps: int) -> None:
        """`weights`: each trained weight, and what the last step moves it by in the whole round."""
        self._weights = weights
        self._steps = steps

    @classmethod
    def of(cls, task: TaskModel, last: Mapping[str, Tensor]) -> MomentumSteps:
        """Along the last aggregate; no move where the job has no momentum, or nothing was aggregated yet."""
        share = task.spec.method.momentum
        if not share or not last:
            return cls([], 1)
        changes = {target.name: change_in(target, last.get) for target in task.plan.targets}
        changes |= {item.name: last.get(f"{item.name}/delta") for item in task.plan.dense}
        weights = {name: weight for name, (weight, _) in task.targets().items()} | task.dense()
        moves = [(weights[name], share * move.to(task.device)) for name, move in changes.items() if move is not None]
        return cls(moves, task.spec.local.steps)

    def step(self) -> None:
        """Moves the weights by one step's part."""
        self._move(1 / self._steps)

    def take_back(self) -> None:
        """Undoes all steps: every client took them, and the server knows it."""
        self._move(-1)

    @torch.no_grad()
    def _move(self, share: float) -> None:
        for weight, move in self._weights:
            weight.add_(move, alpha=share)


def add_last_step(change: Tensor, last: Tensor | None, share: float) -> None:
    """`change += share * last` in place, in the change's precision; None: there was no step yet."""
    if last is not None:
        change += share * last.to(change.device)


def last_step_of(target: Target, last: Lookup) -> Tensor | None:
    """The last step of a target, oriented `(d, k)`."""
    step = change_in(target, last)
    return None if step is None else orient(step)
