"""FLoRA: the clients' adapters stacked, so that the exact mean of B A goes into the weights; new adapters each round.

https://arxiv.org/abs/2409.05976. Clients may have different ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from fedgalore.maths.mean import squared_norm_of_product
from fedgalore.maths.seeding import derive_seed
from fedgalore.methods.base import ClientTensors, GroupResult, LocalTraining, Method, Round, Start, put_change
from fedgalore.methods.lora import (
    client_products,
    lora_spec,
    lora_training,
    new_adapter,
    read_adapter,
    scaled_products,
)
from fedgalore.model.task import TaskModel
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Target, rank_at


class FLoRA(Method):
    def train(
        self, task: TaskModel, spec: JobSpec, client: str, round_number: int, start: Start
    ) -> AbstractContextManager[LocalTraining]:
        def adapter(target: Target) -> tuple[Tensor, Tensor]:
            seed = derive_seed(spec.seed, "lora", client, round_number, target.name)
            return new_adapter(target, rank_at(lora_spec(spec), target, client), seed)

        return lora_training(task, spec, client, ("lora_A", "lora_B"), adapter)

    def aggregate(self, targets: Sequence[Target], this: Round) -> GroupResult:
        result = GroupResult()
        change = this.change_of_factors(targets, [[pair] for pair in zip(*client_products(targets, this), strict=True)])
        for index, target in enumerate(targets):
            put_change(target, change, index, this.spec.server.learning_rate, result)
        return result

    def squared_norm(self, target: Target, this: Round, client: ClientTensors) -> float:
        scale = lora_spec(this.spec).scale
        left, right = scaled_products([target], [read_adapter(target, client.read)], scale)
        return float(squared_norm_of_product(left, right))
