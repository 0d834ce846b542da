"""What a `fedsvd` job chooses."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedgalore.methods.lora.spec import SCALE, LoRASpec


class FedSVDSpec(LoRASpec):
    """LoRA whose B is trained and averaged; A is made of the singular vectors of B A each round: arXiv 2505.12805."""

    kind: Literal["fedsvd"] = "fedsvd"
    scale: float = Field(default=1.0, gt=0, le=1000, description=SCALE)  # the paper's
