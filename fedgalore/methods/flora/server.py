"""The exact mean of the clients' products `s B A`, as a change of the weights."""

from __future__ import annotations

from collections.abc import Sequence

from fedgalore.methods.halves import MeanChange, ServerHalf
from fedgalore.methods.lora.adapters import client_products, read_adapter, scaled_products
from fedgalore.methods.lora.layout import lora_spec
from fedgalore.rounds import ClientTensors, GroupResult, ServerRound
from fedgalore.spec.plan import Target


class FLoRAServer(ServerHalf):
    def aggregate(self, targets: Sequence[Target], round: ServerRound, result: GroupResult) -> MeanChange | None:
        products = zip(*client_products(targets, round), strict=True)
        return round.change_of_factors(targets, [[product] for product in products])

    def squared_norm(self, target: Target, round: ServerRound, client: ClientTensors) -> float:
        scale = lora_spec(round.spec).scale
        product = scaled_products([target], [read_adapter(target, client.read)], scale)
        return round.squared_norm_of_factors(target, [product])
