"""What a `fedex_lora` job chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from fedgalore.methods.lora.spec import LoRASpec

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec


class FedExLoRASpec(LoRASpec):
    """LoRA whose A and B are averaged apart; what that leaves out goes into the weights: arXiv 2410.09432."""

    kind: Literal["fedex_lora"] = "fedex_lora"

    def check_job(self, job: JobSpec) -> None:
        if job.server.learning_rate != 1:
            raise ValueError("server.learning_rate: fedex_lora folds in the exact mean; leave it at 1")
