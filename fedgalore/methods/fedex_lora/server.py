"""The means of A and B, and what mean(B A) is beyond their product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from fedgalore.deltas import Reader, apply_change
from fedgalore.downlink import put_factors
from fedgalore.maths.mean import mean_of_factors
from fedgalore.methods.halves import MeanChange
from fedgalore.methods.lora.adapters import client_products, read_adapter, scaled_products
from fedgalore.methods.lora.layout import lora_spec
from fedgalore.methods.lora.server import AdaptersServer
from fedgalore.rounds import GroupResult, ServerRound
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Target


class FedExLoRAServer(AdaptersServer):
    def aggregate(self, targets: Sequence[Target], round: ServerRound, result: GroupResult) -> MeanChange | None:
        super().aggregate(targets, round, result)
        lefts, rights = client_products(targets, round)
        mean = [read_adapter(target, result.aggregate.__getitem__) for target in targets]
        left, right = scaled_products(targets, mean, lora_spec(round.spec).scale)
        residual = mean_of_factors(
            [*lefts, left.to(round.device)], [*rights, right.to(round.device)], [*round.shares.tolist(), -1.0]
        )
        put_factors(targets, residual, 1.0, result)
        return None

    def apply(
        self, target: Target, spec: JobSpec, weights: Reader, aggregate: Mapping[str, Tensor], decay: float
    ) -> dict[str, Tensor]:
        applied = super().apply(target, spec, weights, aggregate, decay)
        return applied | {target.name: apply_change(target, applied[target.name], aggregate, decay)}
