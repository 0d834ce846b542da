"""What a task is to the rest of the library: how examples become batches, and what the model's outputs mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch.nn.functional as F
from torch import Tensor

from fedgalore.data.examples import Example
from fedgalore.model.images import ImageInputs
from fedgalore.model.inputs import IGNORED, Batch, TaskError
from fedgalore.model.tasks.problems import problem_of, weight_of
from fedgalore.model.texts import TextInputs
from fedgalore.spec.job import JobSpec

Inputs = TextInputs | ImageInputs
AnyInputs = TypeVar("AnyInputs", bound=Inputs)


@dataclass(frozen=True)
class Predictions:
    """What a model said of a batch, and what is right; tokens that the loss leaves out are not in it.

    `scores`: logits `(N, C)`, float32; predicted numbers are `(N,)` where there is one a label.
    `targets`: the right classes `(N,)`, int64; a 0 or 1 for each class `(N, C)`, or numbers as the scores, float32.
    `lengths`: how many of the N rows are of each example; None: one each.
    """

    scores: Tensor
    targets: Tensor
    lengths: tuple[int, ...] | None = None


class Task(ABC, Generic[AnyInputs]):
    """One task of one job."""

    auto_model: ClassVar[Any]  # of transformers
    columns: ClassVar[tuple[tuple[str, ...], ...]]  # that an example must have: all of one of these
    has_head: ClassVar[bool] = True  # weights outside of the backbone, which are trained and sent whole
    generates: ClassVar[bool] = False  # the model answers prompts
    of_images: ClassVar[bool] = False  # or else of texts

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec

    @property
    def problem_type(self) -> str | None:
        """What a model's configuration calls it; None where the task leaves no choice."""
        return None

    @abstractmethod
    def load_inputs(self, folder: Path, model: Any) -> AnyInputs:
        """What makes the model's inputs, from the model's folder.

        Raises:
            TaskError: the folder does not hold what the task needs.
        """

    def has_columns(self, example: Example) -> bool:
        """Whether the example is one of this task at all."""
        return any(example.keys() >= set(columns) for columns in self.columns)

    def lacking(self, example: Example) -> str:
        """What an example of another task is told."""
        folder = "; or name a folder of images by class" if self.of_images else ""
        needed = ", or ".join(map(" and ".join, self.columns))
        return f"data: task {self.spec.model.task} needs the columns {needed}; name them{folder}"

    def check_example(self, example: Example) -> None:
        """Looks at what can be wrong with an example that has the task's columns.

        Raises:
            TaskError: names the row, the value and what is allowed.
        """

    @abstractmethod
    def collate(self, examples: Sequence[Example], inputs: AnyInputs) -> Batch:
        """Examples as the model's inputs and `labels`.

        Raises:
            TaskError: an example that does not fit the job.
        """

    def training_batch(self, examples: Sequence[Example], inputs: AnyInputs) -> Batch:
        """As `collate`, in the form that takes the least work where only the loss matters.

        Raises:
            TaskError: as `collate`.
        """
        return self.collate(examples, inputs)

    def model_inputs(self, batch: Batch) -> Batch:
        """What of a batch the model is called with."""
        return {name: tensor for name, tensor in batch.items() if name != "labels"}

    def class_weights(self, examples: Sequence[Example]) -> Tensor | None:
        """The weights `(C,)` of `local.class_weights` for a client with these examples; None without any.

        Raises:
            TaskError: an example that does not fit the job.
        """
        weights = self.spec.local.class_weights
        if weights is None:
            return None
        return self.balanced(examples) if weights == "balanced" else Tensor(weights)

    def balanced(self, examples: Sequence[Example]) -> Tensor:
        """Weights `(C,)` under which the classes of these examples count alike.

        Raises:
            TaskError: an example that does not fit the job.
        """
        raise NotImplementedError(f"{self.spec.model.task} has no classes")  # the job's document sees to it

    def options(self, batch: Batch) -> dict[str, bool]:
        """How the model is called with a batch, besides."""
        return {}

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch, class_weights: Tensor | None = None) -> Tensor:
        """The mean loss of a batch, a scalar with its graph."""

    @abstractmethod
    def divisor(self, batch: Batch, class_weights: Tensor | None = None) -> float:
        """What the mean loss of a batch divides a sum by: the weight of all that it averages, above 0."""

    @abstractmethod
    def predictions(self, outputs: Any, batch: Batch) -> Predictions:
        """What the outputs say of each example, or of each token that counts, on the CPU."""

    @abstractmethod
    def hits(self, outputs: Any, batch: Batch) -> tuple[int, int | None]:
        """How many predictions the loss averages, and how many of them are right; None where they are numbers."""


class LabelTask(Task[AnyInputs]):
    """Each example has a label: a class, several, or numbers."""

    def __init__(self, spec: JobSpec) -> None:
        super().__init__(spec)
        self.problem = problem_of(spec)

    @property
    def problem_type(self) -> str:
        return self.problem.name

    def check_example(self, example: Example) -> None:
        self.problem.label(example)

    def balanced(self, examples: Sequence[Example]) -> Tensor:
        return self.problem.balanced(examples)

    def loss(self, outputs: Any, batch: Batch, class_weights: Tensor | None = None) -> Tensor:
        return self.problem.loss(outputs.logits.float(), batch["labels"], class_weights)

    def divisor(self, batch: Batch, class_weights: Tensor | None = None) -> float:
        return self.problem.divisor(batch["labels"], class_weights)

    def predictions(self, outputs: Any, batch: Batch) -> Predictions:
        scores, targets = outputs.logits.detach().float().cpu(), batch["labels"].cpu()
        single = targets.dim() == 2 and targets.shape[1] == 1 and self.problem.name == "regression"
        return Predictions(scores[:, 0], targets[:, 0]) if single else Predictions(scores, targets)

    def hits(self, outputs: Any, batch: Batch) -> tuple[int, int | None]:
        return len(batch["labels"]), self.problem.right(outputs.logits, batch["labels"])


class TokenTask(Task[AnyInputs]):
    """Each token that counts is of one class, or is one word of the vocabulary."""

    predicted_from: ClassVar[int] = 0  # the column of `labels` that the first prediction is about

    @abstractmethod
    def labelled(self, examples: Sequence[Example], inputs: AnyInputs) -> Batch:
        """The model's inputs and `labels` `(batch, length)`, int64, `IGNORED` where nothing counts.

        Raises:
            TaskError: as `collate`.
        """

    def collate(self, examples: Sequence[Example], inputs: AnyInputs) -> Batch:
        """As `labelled`. A loss is a mean, and a mean of nothing is none: something counts in every row.

        Raises:
            TaskError: nothing does in one of them; or an example that does not fit the job.
        """
        batch = self.labelled(examples, inputs)
        counts = (batch["labels"][:, self.predicted_from :] != IGNORED).any(1).tolist()
        for example, something in zip(examples, counts, strict=True):
            if not something:
                raise TaskError(
                    f"row {example.get('row', '?')}: nothing of it counts: what is to be learned has no tokens, or "
                    "none within data.max_length; correct the row, or remove it"
                )
        return batch

    def aligned(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits `(batch, length, C)` and the labels `(batch, length)` that they are about."""
        return outputs.logits, batch["labels"]

    @property
    def problem_type(self) -> str | None:
        return "single_label_classification" if self.has_head else None

    def kept(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and classes `(N,)` of what counts."""
        logits, labels = self.aligned(outputs, batch)
        return logits[labels != IGNORED], labels[labels != IGNORED]

    def loss(self, outputs: Any, batch: Batch, class_weights: Tensor | None = None) -> Tensor:
        logits, labels = self.kept(outputs, batch)
        return F.cross_entropy(logits.float(), labels, class_weights)

    def divisor(self, batch: Batch, class_weights: Tensor | None = None) -> float:
        labels = batch["labels"][:, self.predicted_from :]
        return weight_of(labels[labels != IGNORED], class_weights)

    def predictions(self, outputs: Any, batch: Batch) -> Predictions:
        logits, labels = self.kept(outputs, batch)
        lengths = (self.aligned(outputs, batch)[1] != IGNORED).sum(-1)
        return Predictions(logits.detach().float().cpu(), labels.cpu(), tuple(lengths.tolist()))

    def hits(self, outputs: Any, batch: Batch) -> tuple[int, int | None]:
        logits, labels = self.kept(outputs, batch)
        return labels.numel(), int((logits.argmax(-1) == labels).sum())
