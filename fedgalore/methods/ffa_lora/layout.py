"""The tensors of a `ffa_lora` job."""

from __future__ import annotations

from fedgalore.methods.lora.layout import AdaptersLayout
from fedgalore.spec.method import Tensors
from fedgalore.spec.plan import Target


class FFALoRALayout(AdaptersLayout):
    """A stays as it is, so nobody sends it."""

    def update(self, target: Target, client: str, round_number: int) -> Tensors:
        tensors = super().update(target, client, round_number)
        return {"lora_B": tensors["lora_B"]}
