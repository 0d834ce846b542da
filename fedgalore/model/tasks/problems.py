"""What the label of an example is: one class, any number of classes, or numbers; with the loss that belongs to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from fedgalore.data.errors import shown
from fedgalore.data.examples import Example
from fedgalore.data.labels import classes_of, label_index
from fedgalore.data.values import as_list, as_number
from fedgalore.model.inputs import IGNORED, TaskError
from fedgalore.spec.job import JobSpec

LARGEST = torch.finfo(torch.float32).max


class Problem(ABC):
    """Labels of one kind in one job. Logits are `(N, C)` with a column for each label."""

    name: ClassVar[str]  # in a model's configuration

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec
        self.classes = classes_of(spec)

    @abstractmethod
    def label(self, example: Example) -> Any:
        """The label as a row of `targets`.

        Raises:
            TaskError: names the row, the value and what is allowed.
        """

    @abstractmethod
    def targets(self, examples: Sequence[Example]) -> Tensor:
        """The labels of a batch: classes `(N,)`, int64, or one number a label `(N, C)`, float32.

        Raises:
            TaskError: as `label`.
        """

    @abstractmethod
    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        """The mean loss; `weights` `(C,)` of the classes."""

    def divisor(self, targets: Tensor, weights: Tensor | None) -> float:
        """What that mean divides by, in examples."""
        return float(len(targets))

    @abstractmethod
    def right(self, logits: Tensor, targets: Tensor) -> int | None:
        """How many examples are right; None where labels are numbers."""

    def balanced(self, examples: Sequence[Example]) -> Tensor:
        """Weights `(C,)` under which the classes of these examples count alike.

        Raises:
            TaskError: as `label`.
        """
        raise NotImplementedError(f"{self.name} has no classes")  # the job's document sees to it


class SingleLabel(Problem):
    """One class: cross entropy."""

    name = "single_label_classification"

    def label(self, example: Example) -> int:
        return label_index(example, self.classes)

    def targets(self, examples: Sequence[Example]) -> Tensor:
        return torch.tensor([self.label(example) for example in examples])

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        return F.cross_entropy(logits, targets, weights)

    def divisor(self, targets: Tensor, weights: Tensor | None) -> float:
        return weight_of(targets, weights)

    def right(self, logits: Tensor, targets: Tensor) -> int:
        return int((logits.argmax(-1) == targets).sum())

    def balanced(self, examples: Sequence[Example]) -> Tensor:
        return inverse_frequencies(self.targets(examples), self.spec.model.labels)


class MultiLabel(Problem):
    """Any number of classes: binary cross entropy of each, and their mean. Weights are of a class's presence."""

    name = "multi_label_classification"

    def label(self, example: Example) -> list[float]:
        label, row = example["label"], example.get("row", "?")
        values = as_list(label)
        if values is None:
            raise TaskError(
                f"row {row}: label {shown(label)} is no list; with model.problem: multi_label give a list of the "
                "classes that apply, which may be empty"
            )
        present = self.classes.present(values, row, given=example.get("label_names", ()))
        return [float(index in present) for index in range(self.spec.model.labels)]

    def targets(self, examples: Sequence[Example]) -> Tensor:
        return torch.tensor([self.label(example) for example in examples])

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)

    def right(self, logits: Tensor, targets: Tensor) -> int:
        """An example is right when each of its labels is."""
        return int(((logits > 0) == (targets > 0)).all(-1).sum())

    def balanced(self, examples: Sequence[Example]) -> Tensor:
        """How many examples lack the class for each that has it; 1 where all or none have it."""
        present = self.targets(examples).sum(0)
        absent = len(examples) - present
        return torch.where((present > 0) & (absent > 0), absent / present, 1.0)


class Regression(Problem):
    """Numbers: mean squared error."""

    name = "regression"

    def label(self, example: Example) -> list[float]:
        label, row = example["label"], example.get("row", "?")
        listed = as_list(label)
        values = [label] if listed is None else listed
        if len(values) != self.spec.model.labels:
            raise TaskError(
                f"row {row}: the label holds {len(values)} numbers, and the job predicts {self.spec.model.labels}; "
                "correct the data or the job's model.num_labels"
            )
        return [_number(value, row) for value in values]

    def targets(self, examples: Sequence[Example]) -> Tensor:
        return torch.tensor([self.label(example) for example in examples])

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        return F.mse_loss(logits, targets)

    def right(self, logits: Tensor, targets: Tensor) -> None:
        return None


def problem_of(spec: JobSpec) -> Problem:
    """What the labels of a job's examples are, in a task that leaves the choice."""
    problem = spec.model.problem_type
    if problem == "multi_label":
        return MultiLabel(spec)
    return Regression(spec) if problem == "regression" else SingleLabel(spec)


def weight_of(classes: Tensor, weights: Tensor | None) -> float:
    """What torch's mean cross entropy over these classes `(N,)` divides by: their number, or the sum of `weights`."""
    return float(len(classes)) if weights is None else float(weights.double()[classes].sum())


def inverse_frequencies(classes: Tensor, count: int) -> Tensor:
    """Weights `(count,)`, inverse to how often a class occurs; their mean over `classes` is 1; 1 for absent ones."""
    kept = classes[classes != IGNORED]
    held = torch.bincount(kept, minlength=count)
    return torch.where(held > 0, len(kept) / ((held > 0).sum() * held), 1.0)


def _number(value: Any, row: int | str) -> float:
    number = as_number(value)
    if number is None or abs(number) > LARGEST:
        raise TaskError(
            f"row {row}: label {shown(value)} is no number that a float32 holds, and this job predicts numbers; "
            "correct it, or name classes by the job's model.problem: single_label"
        )
    return float(number)
