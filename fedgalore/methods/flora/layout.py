"""The tensors of a `flora` job."""

from __future__ import annotations

from collections.abc import Sequence

from fedgalore.methods.lora.layout import AdaptersLayout
from fedgalore.spec.method import Tensors
from fedgalore.spec.plan import Target


class FLoRALayout(AdaptersLayout):
    """Adapters end with their round: their exact mean is a change of the weights."""

    def change_rank(self, target: Target, clients: Sequence[str], round_number: int) -> int | None:
        return self.ranks_of(target, clients)

    def adapters(self, target: Target) -> Tensors:
        return {}

    def carried(self, target: Target) -> Tensors:
        return {}
