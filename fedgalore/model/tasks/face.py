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
from fedgalore.model.inputs import IGNORED, Batch
from fedgalore.model.texts import TextInputs
from fedgalore.spec.job import JobSpec

Inputs = TextInputs | ImageInputs
AnyInputs = TypeVar("AnyInputs", bound=Inputs)


@dataclass(frozen=True)
class Predictions:
    """What a model said of a batch, and what is right; tokens that the loss leaves out are not in it.

    `scores`: logits `(N, C)`, float32.
    `targets`: the right classes `(N,)`, int64.
    `lengths`: how many of the N rows are of each example; None: one each.
    """

    scores: Tensor
    targets: Tensor
    lengths: tuple[int, ...] | None = None


class Task(ABC, Generic[AnyInputs]):
    """One task of one job."""

    auto_model: ClassVar[Any]  # of transformers
    columns: ClassVar[tuple[str, ...]]  # that an example must have
    has_head: ClassVar[bool] = True  # weights outside of the backbone, which are trained and sent whole
    generates: ClassVar[bool] = False  # the model answers prompts

    def __init__(self, spec: JobSpec) -> None:
        self.spec = spec

    @property
    def problem_type(self) -> str | None:
        """What transformers calls it in a model's configuration; None where the task leaves no choice."""
        return None

    @abstractmethod
    def load_inputs(self, folder: Path, model: Any) -> AnyInputs:
        """What makes the model's inputs, from the model's folder.

        Raises:
            TaskError: the folder does not hold what the task needs.
        """

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

    def model_inputs(self, batch: Batch) -> Batch:
        """What of a batch the model is called with."""
        return {name: tensor for name, tensor in batch.items() if name != "labels"}

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """The mean loss of a batch, a scalar with its graph."""

    @abstractmethod
    def predictions(self, outputs: Any, batch: Batch) -> Predictions:
        """What the outputs say of each example, or of each token that counts, on the CPU."""

    @abstractmethod
    def hits(self, outputs: Any, batch: Batch) -> tuple[int, int]:
        """How many predictions the loss averages, and how many of them are right."""


class Classifying(Task[AnyInputs]):
    """Each example, or each token that counts, is of one class."""

    @property
    def problem_type(self) -> str | None:
        return "single_label_classification" if self.has_head else None

    def kept(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits `(N, C)` and classes `(N,)` of what counts."""
        return outputs.logits, batch["labels"]

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        logits, labels = self.kept(outputs, batch)
        return F.cross_entropy(logits.float(), labels)

    def predictions(self, outputs: Any, batch: Batch) -> Predictions:
        logits, labels = self.kept(outputs, batch)
        counted = (batch["labels"] != IGNORED).sum(-1) if batch["labels"].dim() == 2 else None
        lengths = None if counted is None else tuple(counted.tolist())
        return Predictions(logits.detach().float().cpu(), labels.cpu(), lengths)

    def hits(self, outputs: Any, batch: Batch) -> tuple[int, int]:
        logits, labels = self.kept(outputs, batch)
        return labels.numel(), int((logits.argmax(-1) == labels).sum())
