"""Global momentum (FedCM, arXiv 2106.10874): every client moves along the federation's last step while it trains.

With a share `mu` and the last step `v_t`, each of a client's `K` steps also moves its weights by `mu v_t / K`, and it
learns at `(1 - mu)` of its rates. Before it sends, it takes those moves back: its update holds its own change alone.
What goes down is the clients' mean change `c_t` alone, too. Whoever holds a version adds the rest: `v_{t+1} = c_t + mu
v_t`, `W_{t+1} = decay W_t + v_{t+1}`, so that no byte tells what everybody knows. A version carries its step beside its
weights, as `W/step`. Methods know nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedgalore.model.task import TaskModel
from fedgalore.spec.layout import STEP


class MomentumSteps:
    """The moves of one client along the last step, on the model's device."""

    def __init__(self, weights: Sequence[tuple[Tensor, Tensor]], steps: int) -> None:
        """`weights`: each trained weight, and what the last step moves it by in the whole round."""
        self._weights = weights
        self._steps = steps

    @classmethod
    def of(cls, task: TaskModel, version: Mapping[str, Tensor]) -> MomentumSteps:
        """Along the step that a version carries; no move where it carries none."""
        share = task.spec.method.momentum
        weights = {name: weight for name, (weight, _) in task.targets().items()} | task.dense()
        moves = [
            (weight, share * version[step].to(task.device))
            for name, weight in weights.items()
            if (step := f"{name}/{STEP}") in version
        ]
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
