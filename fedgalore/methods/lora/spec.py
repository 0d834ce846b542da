"""What every method with LoRA adapters lets a job choose."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, model_validator

from fedgalore.spec.method import Rank, RankedSpec

SCALE = "Multiplies B A before it is added to a weight: LoRA's alpha / rank"


class LoRASpec(RankedSpec):
    """Low-rank adapters `W + scale B A`, A `(rank, in)` and B `(out, rank)`; the kinds differ in what is averaged."""

    averages_factors: ClassVar[bool] = True  # which needs equal ranks

    rank: Rank = Field(
        default=8, description="Rank of the adapters A and B. More cost bytes and memory, and learn more"
    )
    scale: float = Field(default=2.0, gt=0, le=1000, description=SCALE)

    @model_validator(mode="after")
    def _ranks_can_be_averaged(self) -> LoRASpec:
        self.check_ranks()
        if self.client_ranks and self.averages_factors:
            raise ValueError(
                f"client_ranks: {self.kind} averages factors, which needs equal ranks; take kind: flora or fedgalore"
            )
        return self

    @property
    def told_by_parameters(self) -> bool:
        return True
