"""The mean of `length * signs`, times the job's `method.step`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fedgalore.methods.halves import MeanChange, ServerHalf
from fedgalore.rounds import ClientTensors, GroupResult, ServerRound
from fedgalore.spec.plan import Target
from sign_mean.face import SignMeanSpec


class SignMeanServer(ServerHalf):
    def aggregate(self, targets: Sequence[Target], round: ServerRound, result: GroupResult) -> MeanChange | None:
        method = round.spec.method
        assert isinstance(method, SignMeanSpec)
        means = [round.change(t.name, [change_of(t, client) for client in round.clients]) for t in targets]
        return [method.step * mean for mean in means]

    def squared_norm(self, target: Target, round: ServerRound, client: ClientTensors) -> float:
        return float(change_of(target, client).double().square().sum())


def change_of(target: Target, client: ClientTensors) -> Tensor:
    """A target's change by a client's update, in the shape of the weight."""
    return client.read(f"{target.name}/length") * client.read(f"{target.name}/signs").float()
