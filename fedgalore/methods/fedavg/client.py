"""Full fine-tuning of the target matrices by AdamW; weight decay is part of the change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fedgalore.methods.halves import ClientHalf, LocalTraining
from fedgalore.rounds import LocalRound


class FedAvgClient(ClientHalf):
    @contextmanager
    def train(self, round: LocalRound) -> Iterator[LocalTraining]:
        yield _FullTraining(round)


class _FullTraining(LocalTraining):
    decay = 1.0

    def __init__(self, round: LocalRound) -> None:
        self._weights = {name: parameter for name, (parameter, _) in round.task.targets().items()}
        self._start = round.start
        local = round.spec.local
        self._optimizer = torch.optim.AdamW(
            [{"params": list(self._weights.values())}],  # a group may be empty, a list of parameters may not
            lr=round.rates.targets,
            betas=local.betas,
            eps=local.eps,
            weight_decay=local.weight_decay,
        )

    def step(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{name}/delta": parameter.detach().cpu() - self._start.weights[name]
            for name, parameter in self._weights.items()
        }
