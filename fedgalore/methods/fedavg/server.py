"""The mean of whole matrices."""

from __future__ import annotations

from collections.abc import Sequence

from fedgalore.maths.mean import squared_norm
from fedgalore.methods.halves import MeanChange, ServerHalf
from fedgalore.rounds import ClientTensors, GroupResult, ServerRound
from fedgalore.spec.plan import Target


class FedAvgServer(ServerHalf):
    def aggregate(self, targets: Sequence[Target], round: ServerRound, result: GroupResult) -> MeanChange | None:
        return [round.change(target.name, round.whole(f"{target.name}/delta")) for target in targets]

    def squared_norm(self, target: Target, round: ServerRound, client: ClientTensors) -> float:
        return squared_norm(client.whole(f"{target.name}/delta"))
