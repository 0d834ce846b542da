"""How changes travel: in how many bits a number, and along how many directions of a matrix."""

from __future__ import annotations

from math import ceil
from typing import Literal

from pydantic import Field

from fedgalore.spec.method import Rank
from fedgalore.spec.strict import Strict

DIRECTIONS = 7.5  # of a rank-r method: at 4 bits they take the bytes of a LoRA adapter of rank r in float32
Bits = Literal[4, 8, 16, 32]


class WireSpec(Strict):
    """Of methods whose changes have full rank; what is left out goes with a later change (error feedback)."""

    bits: Bits | None = Field(
        default=None,
        description="Bits of a number on its way, beside the scales of blocks: 4, 8, 16, or 32 for exact numbers. What "
        "rounding takes is sent later. null: 4 where a method cuts its changes, else 32",
    )
    up_rank: Rank | None = Field(
        default=None,
        description="Directions of a client's change that go up. The rest stays at the client and goes with its next "
        "update. null: 7.5 x rank",
    )
    down_rank: int | None = Field(
        default=None,
        ge=0,
        le=4096,
        description="Directions of the combined change that go down. The rest stays at the coordinator and goes with a "
        "later round. 0: all, as exact numbers; null: 7.5 x rank",
    )


def directions(rank: int) -> int:
    """How many directions of a change go each way where the job does not say."""
    return ceil(DIRECTIONS * rank)
