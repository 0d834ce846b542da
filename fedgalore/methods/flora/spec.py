"""What a `flora` job chooses."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from fedgalore.methods.lora.spec import LoRASpec
from fedgalore.spec.method import MOMENTUM


class FLoRASpec(LoRASpec):
    """LoRA begun anew each round; the exact mean of B A goes into the weights: arXiv 2409.05976."""

    averages_factors: ClassVar[bool] = False

    kind: Literal["flora"] = "flora"
    global_momentum: float = Field(default=0.0, ge=0, lt=1, description=MOMENTUM)

    @property
    def momentum(self) -> float:
        return self.global_momentum
