"""The mean of B, and the product B A in new factors."""

from __future__ import annotations

from collections.abc import Sequence

from fedgalore.maths.refactor import with_orthonormal_rows
from fedgalore.methods.halves import MeanChange
from fedgalore.methods.lora.server import AdaptersServer
from fedgalore.rounds import GroupResult, ServerRound
from fedgalore.spec.plan import Target


class FedSVDServer(AdaptersServer):
    def aggregate(self, targets: Sequence[Target], round: ServerRound, result: GroupResult) -> MeanChange | None:
        super().aggregate(targets, round, result)
        for target in targets:
            first, last = f"{target.name}/lora_A", f"{target.name}/lora_B"
            left, right = with_orthonormal_rows(result.aggregate[last], round.weights(first))
            result.aggregate |= {first: right, last: left}
        return None
