"""A version's weights, replayed: those of an earlier version, and the aggregates since, in their order.

Server, clients and simulation come to a version by this code alone, so that all hold the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from fedgalore.deltas import Reader
from fedgalore.maths.mean import apply_dense
from fedgalore.methods.halves import server_half
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import layout_of
from fedgalore.spec.plan import Buffer, Dense, Target, TrainingPlan


@dataclass(frozen=True)
class Aggregate:
    """One step from a version to the next: `tensors` as `layout.aggregate_tensors` lists them.

    `decay`: what the target weights are multiplied by first.
    """

    tensors: Mapping[str, Tensor]
    decay: float


class Replayed(Mapping[str, Tensor]):
    """The weights of a version, as `layout.weights_tensors` lists them; float32 on the CPU.

    A target is computed when it is asked for, and only the last one is held. Names come target by target, each followed
    by what is carried beside it, so that going through them computes each target once.
    """

    def __init__(self, weights: Reader, aggregates: Sequence[Aggregate], plan: TrainingPlan, spec: JobSpec) -> None:
        """`weights`: of the version that the first of the aggregates goes on from."""
        self._weights, self._aggregates, self._spec = weights, aggregates, spec
        carried = layout_of(spec).carried
        self._items: dict[str, Target | Dense | Buffer] = {}
        for target in plan.targets:
            names = (target.name, *(f"{target.name}/{suffix}" for suffix in carried(target)))
            self._items |= dict.fromkeys(names, target)
        self._items |= {item.name: item for item in plan.whole}
        self._held: tuple[Target | Dense | Buffer, dict[str, Tensor]] | None = None

    def __getitem__(self, name: str) -> Tensor:
        item = self._items[name]
        if not self._aggregates:
            return self._weights(name)
        if self._held is None or self._held[0] is not item:
            self._held = item, self._replay(item)
        return self._held[1][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def _replay(self, item: Target | Dense | Buffer) -> dict[str, Tensor]:
        """The item's tensors after the last aggregate."""
        half = server_half(self._spec)
        held: dict[str, Tensor] = {}

        def read(name: str) -> Tensor:
            return held[name] if name in held else self._weights(name)

        for step in self._aggregates:
            match item:
                case Target():
                    held = half.apply(item, self._spec, read, step.tensors, step.decay)
                case Dense():
                    held = {item.name: apply_dense(read(item.name), 1.0, step.tensors[f"{item.name}/delta"])}
                case Buffer():
                    held = {item.name: _moved(item, read(item.name), step.tensors[f"{item.name}/delta"])}
        return held


def apply_aggregate(
    weights: Mapping[str, Tensor], aggregate: Mapping[str, Tensor], decay: float, plan: TrainingPlan, spec: JobSpec
) -> dict[str, Tensor]:
    """All weights of the next version, from those of the version before and the aggregate that makes it."""
    return dict(Replayed(weights.__getitem__, [Aggregate(aggregate, decay)], plan, spec))


def _moved(item: Buffer, old: Tensor, change: Tensor) -> Tensor:
    value = apply_dense(old, 1.0, change)
    return value.clamp_min(0) if item.not_negative else value
