"""FedIT: LoRA whose factors A and B are averaged apart. https://arxiv.org/abs/2305.05644."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from fedgalore.methods.base import GroupResult, LocalTraining, Method, Reader, Round, Start
from fedgalore.methods.lora import apply_adapters, carried_adapters, lora_training, mean_adapters, start_adapter
from fedgalore.model.task import TaskModel
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Target, TrainingPlan


class FedIT(Method):
    parts: Sequence[str] = ("lora_A", "lora_B")  # that are trained and averaged

    def carried(self, spec: JobSpec, plan: TrainingPlan) -> dict[str, Tensor]:
        return carried_adapters(spec, plan)

    def train(
        self, task: TaskModel, spec: JobSpec, client: str, round_number: int, start: Start
    ) -> AbstractContextManager[LocalTraining]:
        return lora_training(task, spec, client, self.parts, lambda target: start_adapter(target, start))

    def aggregate(self, targets: Sequence[Target], this: Round) -> GroupResult:
        return mean_adapters(targets, this, self.parts)

    def apply(
        self, target: Target, spec: JobSpec, weights: Reader, aggregate: Mapping[str, Tensor], decay: float
    ) -> dict[str, Tensor]:
        return apply_adapters(target, spec, weights, aggregate)
