"""Global momentum (FedCM, arXiv 2106.10874): every client moves along the federation's last step while it trains.

With a share `mu` and the last step `v_t`, each of a client's `K` steps also moves its weights by `mu v_t / K`, and it
learns at `(1 - mu)` of its rates. Before it sends, it takes those moves back: its update holds its own change alone.
What goes down is the clients' mean change `c_t` alone, too. Whoever holds a version adds the rest: `v_{t+1} = c_t + mu
v_t`, `W_{t+1} = decay W_t + v_{t+1}`, so that no byte tells what everybody knows. A version carries its step beside its
weights, as `W/step`, in 8 bits where changes travel in fewer: rounding there is forgotten with the step, and weights
move by the exact one. Methods know nothing of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fedgalore.maths.compression import rounded
from fedgalore.maths.quantization import pieces_told_by, told_by
from fedgalore.maths.rounding import move_along_
from fedgalore.maths.seeding import derive_seed
from fedgalore.model.task import TaskModel
from fedgalore.spec import layout
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Dense, Target


class MomentumSteps:
    """The moves of one client along the last step, a weight in memory at a time."""

    def __init__(self, task: TaskModel, version: Mapping[str, Tensor], seed: int) -> None:
        """Along the step that a version carries; no move where it carries none. `seed`: of rounding."""
        self._task, self._version, self._seed = task, version, seed
        self._weights = task.trained()
        self._steps = 0

    @torch.no_grad()
    def step(self) -> None:
        """Moves the weights by one step's part."""
        share = self._task.spec.method.momentum / self._task.spec.local.steps
        self._steps += 1
        for item in self._task.plan.trained:
            if (name := f"{item.name}/{layout.STEP}") in self._version:
                weight, code = self._weights[item.name], layout.step(self._task.spec, item).quantization
                held = self._version[name].to(weight.device)
                pieces = pieces_told_by(held, code)
                move_along_(weight, pieces, share, derive_seed(self._seed, item.name, self._steps))


def last_step(
    spec: JobSpec, item: Target | Dense, version: Mapping[str, Tensor], device: torch.device | None = None
) -> Tensor | None:
    """What the federation's last step moved a weight by, float32; None where the version carries none."""
    if (name := f"{item.name}/{layout.STEP}") not in version:
        return None
    held, code = version[name].to(device), layout.step(spec, item).quantization
    return told_by(held, code)


def carried_step(spec: JobSpec, item: Target | Dense, step: Tensor) -> Tensor:
    """A step as a version carries it."""
    return rounded(step, layout.step(spec, item).quantization).wire
