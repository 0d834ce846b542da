"""FFA-LoRA: A stays at its seeded start, B is trained and averaged, so the mean of B A is exact. arXiv 2403.12313."""

from __future__ import annotations

from collections.abc import Sequence

from fedgalore.methods.fedit import FedIT


class FFALoRA(FedIT):
    parts: Sequence[str] = ("lora_B",)
