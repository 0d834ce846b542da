"""Full fine-tuning of the target matrices by AdamW; weight decay is part of the change."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from fedgalore.methods.halves import ClientHalf, LocalTraining, Moved, Packed
from fedgalore.rounds import LocalRound
from fedgalore.spec.plan import Target


class FedAvgClient(ClientHalf):
    @contextmanager
    def train(self, round: LocalRound) -> Iterator[LocalTraining]:
        yield _FullTraining(round)


class _FullTraining(LocalTraining):
    decay = 1.0

    def __init__(self, round: LocalRound) -> None:
        self._weights = {name: parameter for name, (parameter, _) in round.task.targets().items()}
        self._round = round
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

    def moved(self, target: Target) -> Sequence[Moved]:
        return [Moved.of(self._round, target, self._weights[target.name])]

    def packed(self, target: Target) -> Packed:
        return Packed({"delta": self._round.own_change(target, self._weights[target.name])})
