"""Training of B alone."""

from __future__ import annotations

from collections.abc import Sequence

from fedgalore.methods.lora.client import AdaptersClient


class FFALoRAClient(AdaptersClient):
    parts: Sequence[str] = ("lora_B",)
