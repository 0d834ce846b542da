"""What a `fedavg` job chooses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedgalore.spec.method import MOMENTUM, MethodSpec


class FedAvgSpec(MethodSpec):
    """Full fine-tuning of all weights; the server averages the changes. arXiv 1602.05629."""

    kind: Literal["fedavg"] = "fedavg"
    global_momentum: float = Field(default=0.0, ge=0, lt=1, description=MOMENTUM)

    @property
    def momentum(self) -> float:
        return self.global_momentum

    @property
    def told_by_parameters(self) -> bool:
        return True
