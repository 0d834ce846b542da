"""Plain SGD on the whole matrices; the update is the sign of each change and its mean length."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from fedgalore.methods.halves import ClientHalf, LocalTraining, Packed
from fedgalore.rounds import LocalRound
from fedgalore.spec.plan import Target


class SignMeanClient(ClientHalf):
    @contextmanager
    def train(self, round: LocalRound) -> Iterator[LocalTraining]:
        yield SignTraining(round)


class SignTraining(LocalTraining):
    decay = 1.0  # of the weights before the change is added; 1: weight decay is part of the change

    def __init__(self, round: LocalRound) -> None:
        self._round = round
        self._weights = {name: parameter for name, (parameter, _) in round.task.targets().items()}
        self._optimizer = torch.optim.SGD(self._weights.values(), lr=round.rates.targets)

    def step(self) -> None:
        self._optimizer.step()
        self._optimizer.zero_grad()

    def packed(self, target: Target) -> Packed:
        change = self._round.own_change(target, self._weights[target.name])
        return Packed({"length": change.abs().mean().reshape(1, 1), "signs": change.sign().half()})
