"""What a `ffa_lora` job chooses."""

from __future__ import annotations

from typing import Literal

from fedgalore.methods.lora.spec import LoRASpec


class FFALoRASpec(LoRASpec):
    """LoRA whose A stays at its seeded start; B is trained and averaged: arXiv 2403.12313."""

    kind: Literal["ffa_lora"] = "ffa_lora"
