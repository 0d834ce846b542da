"""The tensors of jobs with adapters: `W/lora_A (r, in)` and `W/lora_B (out, r)`, as PEFT keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedgalore.methods.lora.spec import LoRASpec
from fedgalore.spec.method import PlainLayout, Tensors, float32
from fedgalore.spec.plan import Target, adapter_shapes

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec


def lora_spec(spec: JobSpec) -> LoRASpec:
    """The job's method, which has adapters."""
    assert isinstance(spec.method, LoRASpec)
    return spec.method


class AdaptersLayout(PlainLayout):
    """Both parts of an adapter go up, their means down, and the adapter from round to round."""

    def __init__(self, spec: JobSpec) -> None:
        self.method = lora_spec(spec)

    def update(self, target: Target, client: str, round_number: int) -> Tensors:
        return float32(**adapter_shapes(target, self.method.rank_at(target, client)))

    def adapters(self, target: Target) -> Tensors:
        return self.update(target, "", 1)

    def carried(self, target: Target) -> Tensors:
        return float32(**adapter_shapes(target, target.rank))

    def ranks_of(self, target: Target, clients: Sequence[str]) -> int:
        """The ranks of all clients' adapters together."""
        return sum(self.method.rank_at(target, client) for client in clients)
