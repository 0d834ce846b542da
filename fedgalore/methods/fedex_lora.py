"""FedEx-LoRA: A and B averaged apart, and what mean(B A) is beyond their product folded into the weights.

https://arxiv.org/abs/2410.09432.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedgalore.maths.mean import mean_of_factors
from fedgalore.methods.base import GroupResult, Reader, Round, apply_change, put_change
from fedgalore.methods.fedit import FedIT
from fedgalore.methods.lora import client_products, lora_spec, read_adapter, scaled_products
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Target


class FedExLoRA(FedIT):
    def aggregate(self, targets: Sequence[Target], this: Round) -> GroupResult:
        result = super().aggregate(targets, this)
        lefts, rights = client_products(targets, this)
        mean = [read_adapter(target, result.aggregate.__getitem__) for target in targets]
        left, right = scaled_products(targets, mean, lora_spec(this.spec).scale)
        residual = mean_of_factors(
            [*lefts, left.to(this.device)], [*rights, right.to(this.device)], [*this.shares.tolist(), -1.0]
        )
        for index, target in enumerate(targets):
            put_change(target, residual, index, 1.0, result)
        return result

    def apply(
        self, target: Target, spec: JobSpec, weights: Reader, aggregate: Mapping[str, Tensor], decay: float
    ) -> dict[str, Tensor]:
        result = super().apply(target, spec, weights, aggregate, decay)
        return result | {target.name: apply_change(target, result[target.name], aggregate, decay)}
