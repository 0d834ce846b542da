"""What a `flora` job chooses."""

from __future__ import annotations

from typing import ClassVar, Literal

from fedgalore.methods.lora.spec import LoRASpec


class FLoRASpec(LoRASpec):
    """LoRA begun anew each round; the exact mean of B A goes into the weights: arXiv 2409.05976."""

    averages_factors: ClassVar[bool] = False

    kind: Literal["flora"] = "flora"
