"""A version's weights, replayed: those of an earlier version, and the aggregates since, in their order.

Server, clients and simulation come to a version by this code alone, so that all hold the same bits.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fedgalore.deltas import change_of, decoded
from fedgalore.maths.mean import apply_dense
from fedgalore.methods.halves import server_half
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import STEP, carried, quantized_in_aggregate
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

    An item is computed when it is asked for, and only the last one is held. Names come item by item, each followed by
    what is carried beside it, so that going through them computes each item once.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], aggregates: Sequence[Aggregate], plan: TrainingPlan, spec: JobSpec
    ) -> None:
        """`weights`: of the version that the first of the aggregates goes on from."""
        self._weights, self._aggregates, self._spec = weights, aggregates, spec
        self._items: dict[str, Target | Dense | Buffer] = {}
        for item in (*plan.targets, *plan.whole):
            self._items |= {name: item for name in _names(item, spec) if aggregates or name in weights}
        self._held: tuple[Target | Dense | Buffer, dict[str, Tensor]] | None = None

    def __getitem__(self, name: str) -> Tensor:
        item = self._items[name]
        if not self._aggregates:
            return self._weights[name]
        if self._held is None or self._held[0] is not item:
            self._held = item, self._replay(item)
        return self._held[1][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def _replay(self, item: Target | Dense | Buffer) -> dict[str, Tensor]:
        """The item's tensors after the last aggregate."""
        names = (name for name in _names(item, self._spec) if name in self._weights)
        version = {name: self._weights[name] for name in names}
        for aggregate in self._aggregates:
            version = _next(item, version, aggregate, self._spec)
        return version


def apply_aggregate(
    weights: Mapping[str, Tensor], aggregate: Mapping[str, Tensor], decay: float, plan: TrainingPlan, spec: JobSpec
) -> dict[str, Tensor]:
    """All weights of the next version, from those of the version before and the aggregate that makes it."""
    return dict(Replayed(weights, [Aggregate(aggregate, decay)], plan, spec))


def _names(item: Target | Dense | Buffer, spec: JobSpec) -> list[str]:
    """Of an item's weights, and of what is carried beside them."""
    return [item.name, *(f"{item.name}/{suffix}" for suffix in carried(spec, item))]


def _next(
    item: Target | Dense | Buffer, old: Mapping[str, Tensor], aggregate: Aggregate, spec: JobSpec
) -> dict[str, Tensor]:
    """An item's tensors in the next version."""
    name, share = item.name, spec.method.momentum
    coded = {f"{name}/{suffix}": tensor for suffix, tensor in quantized_in_aggregate(spec, item).items()}
    read = decoded(aggregate.tensors.__getitem__, coded)
    as_sent = cast("MutableMapping[str, Tensor]", aggregate.tensors)  # which nobody changes
    tensors = ChainMap({tensor: read(tensor) for tensor in coded}, as_sent)
    if isinstance(item, Buffer):
        value = apply_dense(old[name], 1.0, tensors[f"{name}/delta"])
        return {name: value.clamp_min(0) if item.not_negative else value}
    if isinstance(item, Target) and not share:
        return server_half(spec).apply(item, spec, old.__getitem__, tensors, aggregate.decay)
    last, decay = old.get(f"{name}/{STEP}"), aggregate.decay if isinstance(item, Target) else 1.0
    change = change_of(item, tensors)
    if change is None:
        return {name: old[name], f"{name}/{STEP}": torch.zeros(item.shape) if last is None else last}
    step = change if last is None else apply_dense(last, share, change)
    moved = {name: apply_dense(old[name], decay, step)}
    return moved | {f"{name}/{STEP}": step} if share else moved
