"""The tensors of a `fedsvd` job."""

from __future__ import annotations

from fedgalore.methods.ffa_lora.layout import FFALoRALayout
from fedgalore.spec.method import Tensors
from fedgalore.spec.plan import Target


class FedSVDLayout(FFALoRALayout):
    """B goes up; A and B, refactored, go down."""

    def adapters(self, target: Target) -> Tensors:
        return self.carried(target)
