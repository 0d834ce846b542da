"""The tensors of a `fedavg` job: `W/delta`, the change of a target, as `W`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from fedgalore.spec.method import PlainLayout, Tensors, float32
from fedgalore.spec.plan import Target

if TYPE_CHECKING:
    from fedgalore.spec.job import JobSpec


class FedAvgLayout(PlainLayout):
    def __init__(self, spec: JobSpec) -> None:
        """Every `fedavg` job has the same."""

    def update(self, target: Target, client: str, round_number: int) -> Tensors:
        return float32(delta=target.shape)

    def change_rank(self, target: Target, clients: Sequence[str], round_number: int) -> int | None:
        return target.d
