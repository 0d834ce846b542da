"""Federated averaging: the target matrices are fine-tuned in full and sent whole. arXiv 1602.05629."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from fedgalore.methods.base import ClientTensors, GroupResult, LocalTraining, Method, Round, Start, change_in
from fedgalore.model.task import TaskModel
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Target


class FedAvg(Method):
    @contextmanager
    def train(
        self, task: TaskModel, spec: JobSpec, client: str, round_number: int, start: Start
    ) -> Iterator[LocalTraining]:
        yield _FullTraining(task, spec, start)

    def aggregate(self, targets: Sequence[Target], this: Round) -> GroupResult:
        result = GroupResult()
        for target in targets:
            change = this.spec.server.learning_rate * this.change(target.name, this.gather(target, "delta"))
            last = change_in(target, this.last)
            if last is not None:
                change += this.spec.method.momentum * last.to(this.device)
            result.aggregate[f"{target.name}/dense"] = change.cpu()
        return result

    def squared_norm(self, target: Target, this: Round, client: ClientTensors) -> float:
        return float(client.read(f"{target.name}/delta").double().square().sum())


class _FullTraining:
    """AdamW on the whole matrices; weight decay is part of the change."""

    decay = 1.0

    def __init__(self, task: TaskModel, spec: JobSpec, start: Start) -> None:
        self._weights = {name: parameter for name, (parameter, _) in task.targets().items()}
        self._start = start
        local = spec.local
        self._optimizer = torch.optim.AdamW(
            self._weights.values(),
            lr=local.learning_rate,
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

    def kept(self) -> dict[str, Tensor]:
        return {}
