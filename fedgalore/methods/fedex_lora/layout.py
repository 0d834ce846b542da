"""The tensors of a `fedex_lora` job."""

from __future__ import annotations

from collections.abc import Sequence

from fedgalore.methods.lora.layout import AdaptersLayout
from fedgalore.spec.plan import Target


class FedExLoRALayout(AdaptersLayout):
    """Beside the means goes down what their product leaves out of the mean product."""

    def change_rank(self, target: Target, clients: Sequence[str], round_number: int) -> int | None:
        return self.ranks_of(target, clients) + target.rank
