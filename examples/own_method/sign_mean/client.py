"""Plain SGD on the whole matrices; the update is the sign of each change and its mean length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from fedgalore.methods.halves import ClientHalf, LocalTraining
from fedgalore.rounds import LocalRound


class SignMeanClient(ClientHalf):
    @contextmanager
    def train(self, round: LocalRound) -> Iterator[LocalTraining]:
        yield SignTraining(round)


class SignTraining(LocalTraining):
    decay = 1.0  # of the weights before the change is added; 1: weight decay is part of the change

    def __init__(self, round: LocalRound) -> None:
        self._start = round.start.weights
        self._weights = {name: parameter for name, (parameter, _) in round.task.targets().items()}
        self._optimizer = torch.optim.SGD(self._weights.values(), lr=round.rates.targets)

    def step(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()

    def tensors(self) -> dict[str, Tensor]:
        tensors = {}
        for name, parameter in self._weights.items():
            change = parameter.detach().cpu() - self._start[name]
            tensors |= {f"{name}/length": change.abs().mean().reshape(1, 1), f"{name}/signs": change.sign().half()}
        return tensors
