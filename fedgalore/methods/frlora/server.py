"""The means of A and B, as a change of the weights; the adapters stay those of the pretrained weights."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import torch
from torch import Tensor

from fedgalore.deltas import Reader
from fedgalore.maths.low_rank import low_rank
from fedgalore.methods.lora.adapters import Adapter, carried_adapters
from fedgalore.methods.lora.layout import lora_spec
from fedgalore.methods.lora.server import AdaptersServer
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import Target, TrainingPlan


class FRLoRAServer(AdaptersServer):
    def carried(self, spec: JobSpec, plan: TrainingPlan, weights: Reader) -> dict[str, Tensor]:
        scale = lora_spec(spec).scale
        return carried_adapters(plan, lambda target: principal_adapter(target, weights(target.name), scale))

    def apply(
        self, target: Target, spec: JobSpec, weights: Reader, aggregate: Mapping[str, Tensor], decay: float
    ) -> dict[str, Tensor]:
        """The weight with the change from the start of the round to the means, and that start."""
        moved = super().apply(target, spec, weights, aggregate, decay)
        return {name: moved[name] if name == target.name else weights(name) for name in moved}


def principal_adapter(target: Target, weight: Tensor, scale: float) -> Adapter:
    """A and B of a weight's leading singular triples, so that no `scale * B A` of this rank is nearer to the weight."""
    matrix = weight.mT if target.fan_in_fan_out else weight
    left, right, _ = low_rank(matrix.numpy(), target.rank)
    return torch.from_numpy(right / sqrt(scale)).contiguous(), torch.from_numpy(left / sqrt(scale)).contiguous()
