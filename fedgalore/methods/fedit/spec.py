"""What a `fedit` job chooses."""

from __future__ import annotations

from typing import Literal

from fedgalore.methods.lora.spec import LoRASpec


class FedITSpec(LoRASpec):
    """LoRA whose factors A and B are averaged apart: arXiv 2305.05644."""

    kind: Literal["fedit"] = "fedit"
