"""Training of adapters that are drawn anew in each round, at each client."""

from __future__ import annotations

from contextlib import AbstractContextManager

from fedgalore.maths.seeding import derive_seed
from fedgalore.methods.halves import LocalTraining
from fedgalore.methods.lora.adapters import Adapter, new_adapter
from fedgalore.methods.lora.client import AdaptersClient, lora_training
from fedgalore.rounds import LocalRound
from fedgalore.spec.plan import Target


class FLoRAClient(AdaptersClient):
    def train(self, round: LocalRound) -> AbstractContextManager[LocalTraining]:
        def adapter(target: Target) -> Adapter:
            seed = derive_seed(round.spec.seed, "lora", round.client, round.number, target.name)
            return new_adapter(target, round.spec.method.rank_at(target, round.client), seed)

        return lora_training(round, ("lora_A", "lora_B"), adapter)
