"""A and B averaged apart, and carried from round to round in the model version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedgalore.deltas import Reader
from fedgalore.methods.halves import MeanChange, ServerHalf
from fedgalore.methods.lora.adapters import carried_adapters, drawn_adapter, exchanged, read_adapter
from fedgalore.methods.lora.layout import lora_spec
from fedgalore.rounds import GroupResult, ServerRound
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import layout_of
from fedgalore.spec.plan import Target, TrainingPlan


class AdaptersServer(ServerHalf):
    """`A + server_lr (sum_i p_i A_i - A)`, and the same for B, of the parts that the clients send."""

    def carried(self, spec: JobSpec, plan: TrainingPlan, weights: Reader) -> dict[str, Tensor]:
        return carried_adapters(plan, lambda target: drawn_adapter(target, spec.seed))

    def aggregate(self, targets: Sequence[Target], round: ServerRound, result: GroupResult) -> MeanChange | None:
        layout, rate = layout_of(round.spec), round.spec.server.learning_rate
        for target in targets:
            for part in layout.update(target, round.clients[0].client, round.number):
                name, mean = f"{target.name}/{part}", round.mean(round.gather(target, part)).cpu()
                result.aggregate[name] = mean if rate == 1 else torch.lerp(round.weights(name), mean, rate)
        return None

    def apply(
        self, target: Target, spec: JobSpec, weights: Reader, aggregate: Mapping[str, Tensor], decay: float
    ) -> dict[str, Tensor]:
        """The weight with its adapter replaced by that of the aggregate, and the adapter."""
        old = read_adapter(target, weights)
        names = (f"{target.name}/lora_A", f"{target.name}/lora_B")
        new = (aggregate.get(names[0], old[0]), aggregate.get(names[1], old[1]))
        weight = exchanged(target, weights(target.name), lora_spec(spec).scale, new, old)
        return {target.name: weight, names[0]: new[0], names[1]: new[1]}
