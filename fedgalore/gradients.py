"""The gradient of one batch: summed over micro-batches, and clipped."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor

from fedgalore.data.batches import micro_batches
from fedgalore.data.examples import Example
from fedgalore.methods.halves import LocalTraining
from fedgalore.model.culprits import naming_rows
from fedgalore.model.inputs import Batch
from fedgalore.model.task import TaskModel


class LossNotFinite(ArithmeticError):
    """`loss` is infinite or NaN."""

    def __init__(self, loss: float) -> None:
        super().__init__(f"the loss became {loss}")
        self.loss = loss


class NormNotFinite(ArithmeticError):
    """The norm of all gradients together is infinite or NaN."""


@dataclass(frozen=True)
class Passed:
    """What a batch's passes told: its mean loss, how many predictions that averages, how many of them were right.

    `right` is None where they are numbers. `learns`: whether there is a gradient at all.
    """

    loss: float
    predictions: int
    right: int | None
    learns: bool


class Gradients:
    """Runs the passes of a client's batches; the gradients are where the method looks for them afterwards."""

    def __init__(self, task: TaskModel, examples: Sequence[Example], training: LocalTraining) -> None:
        """`examples`: all of the client's, by which classes are weighed.

        Raises:
            TaskError: an example that does not fit the job.
        """
        self._task, self._examples, self._training = task, examples, training
        self.class_weights = task.class_weights(examples)

    def of(self, chosen: Sequence[Example]) -> Passed:
        """The gradients of a batch's mean loss, as of one pass over all of it.

        A mean of means is not the mean: each micro-batch counts by the weight of what its own loss averages. Those
        before the last leave a gradient at each trained weight. In the last pass the method may step along each as soon
        as it is complete, unless all of them have to be clipped together first.

        Raises:
            LossNotFinite, NormNotFinite: nobody can step along such a gradient.
            TaskError: the model fails on a row.
        """
        most = self._task.spec.local.max_grad_norm
        parts = list(self._parts(chosen))
        whole = sum(weight for _, _, weight in parts)
        loss, predictions, right, learns = 0.0, 0, None, False
        for number, (rows, batch, weight) in enumerate(parts, start=1):
            with naming_rows(rows, self._examples, self._pass):
                mean, count, hits = self._task.loss(batch, self.class_weights)
            if not math.isfinite(value := mean.item()):
                raise LossNotFinite(value)
            share = weight / whole
            if mean.requires_grad:  # or all layers were dropped in this pass: there is nothing to step along
                steps = number == len(parts) and most is None
                with self._training.last_pass() if steps else nullcontext():
                    (share * mean).backward()
                learns = True
            loss, predictions = loss + share * value, predictions + count
            right = None if hits is None else (right or 0) + hits
        if learns and most is not None:
            self._clip(most)
        return Passed(loss, predictions, right, learns)

    def _parts(self, chosen: Sequence[Example]) -> Iterator[tuple[Sequence[Example], Batch, float]]:
        """The micro-batches of a batch, each with the weight of what its mean loss averages."""
        for rows in micro_batches(chosen, self._task.spec.local.micro_batch_size):
            with naming_rows(rows, self._examples, self._pass):
                batch = self._task.collate(rows, trains=True)
            yield rows, batch, self._task.task.divisor(batch, self.class_weights)

    def _pass(self, rows: Sequence[Example]) -> object:
        return self._task.loss(self._task.collate(rows, trains=True), self.class_weights)

    def _clip(self, most: float) -> None:
        """Shortens all gradients alike. Those of parts of a parameter are no parameters of the model."""
        task = self._task
        parameters: dict[Tensor, None] = dict.fromkeys((*task.model.parameters(), *task.trained().values()))
        if not torch.isfinite(torch.nn.utils.clip_grad_norm_(parameters, most)):
            raise NormNotFinite
