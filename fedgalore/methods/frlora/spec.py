"""What a `frlora` job chooses."""

from __future__ import annotations

from typing import Literal

from fedgalore.methods.lora.spec import LoRASpec


class FRLoRASpec(LoRASpec):
    """LoRA begun each round from a weight's principal singular vectors; the change goes into the weights: ICLR 2025."""

    kind: Literal["frlora"] = "frlora"
