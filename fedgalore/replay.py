"""A version's weights, replayed: those of an earlier version, and the aggregates since, in their order.

Server, clients and simulation come to a version by this code alone, so that all hold the same bits. Each item is
computed on one thread, several of them side by side.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import ItemsView, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from fedgalore.deltas import change_of, decoded
from fedgalore.maths.bounds import OutOfBounds, check
from fedgalore.maths.mean import apply_dense
from fedgalore.maths.parallel import in_order, one_thread
from fedgalore.maths.quantization import NotQuantizable
from fedgalore.methods.halves import server_half
from fedgalore.momentum import carried_step, last_step
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import STEP, carried, quantized_in_aggregate
from fedgalore.spec.plan import Buffer, Dense, Target, TensorSpec, TrainingPlan


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
    what is carried beside it. Going through `items()` computes each item once, and holds as many as torch has threads.
    """

    def __init__(
        self, weights: Mapping[str, Tensor], aggregates: Sequence[Aggregate], plan: TrainingPlan, spec: JobSpec
    ) -> None:
        """`weights`: of the version that the first of the aggregates goes on from."""
        self._weights, self._aggregates, self._spec = weights, aggregates, spec
        beside = carried(spec, plan)
        self._names = {
            item: [item.name, *(f"{item.name}/{suffix}" for suffix in beside[item.name])]
            for item in (*plan.targets, *plan.whole)
        }
        self._items = {
            name: item for item, names in self._names.items() for name in names if aggregates or name in weights
        }
        self._held: tuple[Target | Dense | Buffer, dict[str, Tensor]] | None = None

    def __getitem__(self, name: str) -> Tensor:
        item = self._items[name]
        if not self._aggregates:
            return self._weights[name]
        if (held := self._held) is None or held[0] is not item:
            with one_thread():
                self._held = held = item, self.replayed(item)
        return held[1][name]

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def items(self) -> ItemsView[str, Tensor]:
        return _SideBySide(self)

    def replayed(self, item: Target | Dense | Buffer) -> dict[str, Tensor]:
        """The item's tensors after the last aggregate.

        Raises:
            OutOfBounds: an aggregate makes one of them infinite or NaN.
        """
        names = self._names[item]
        version = {name: self._weights[name] for name in names if name in self._weights}
        coded = {f"{item.name}/{suffix}": code for suffix, code in quantized_in_aggregate(self._spec, item).items()}
        try:
            for aggregate in self._aggregates:
                version = _next(item, version, aggregate, coded, self._spec)
        except NotQuantizable as error:
            raise OutOfBounds(f"the last step of {item.name} {error}") from error
        if item.name in version:
            check(item.name, version[item.name])
        return {name: version[name] for name in names if name in version}

    @property
    def by_item(self) -> Iterator[dict[str, Tensor]]:
        """The tensors of each item in turn."""
        if self._aggregates:
            yield from in_order(self.replayed, self._names)
        else:
            yield from ({name: self._weights[name]} for name in self._items)


class _SideBySide(ItemsView[str, Tensor]):
    """The names and tensors of a `Replayed`."""

    def __init__(self, version: Replayed) -> None:
        super().__init__(version)
        self._version = version

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for tensors in self._version.by_item:
            yield from tensors.items()


def apply_aggregate(
    weights: Mapping[str, Tensor], aggregate: Mapping[str, Tensor], decay: float, plan: TrainingPlan, spec: JobSpec
) -> dict[str, Tensor]:
    """All weights of the next version, from those of the version before and the aggregate that makes it."""
    return dict(Replayed(weights, [Aggregate(aggregate, decay)], plan, spec).items())


def _next(
    item: Target | Dense | Buffer,
    old: Mapping[str, Tensor],
    aggregate: Aggregate,
    coded: Mapping[str, TensorSpec],
    spec: JobSpec,
) -> dict[str, Tensor]:
    """An item's tensors in the next version; `coded`: those of the aggregate that are quantized."""
    name, share = item.name, spec.method.momentum
    read = decoded(aggregate.tensors.__getitem__, coded)
    as_sent = cast("MutableMapping[str, Tensor]", aggregate.tensors)  # which nobody changes
    tensors = ChainMap({tensor: read(tensor) for tensor in coded}, as_sent)
    if isinstance(item, Buffer):
        value = apply_dense(old[name], 1.0, tensors[f"{name}/delta"])
        return {name: value.clamp_min(0) if item.not_negative else value}
    if isinstance(item, Target) and not share:
        return server_half(spec).apply(item, spec, old.__getitem__, tensors, aggregate.decay)
    last, decay = last_step(spec, item, old), aggregate.decay if isinstance(item, Target) else 1.0
    change = change_of(item, tensors)
    if change is None:
        held = carried_step(spec, item, torch.zeros(item.shape)) if last is None else old[f"{name}/{STEP}"]
        return {name: old[name], f"{name}/{STEP}": held}
    step = change if last is None else apply_dense(last, share, change)
    moved = {name: apply_dense(old[name], decay, step)}
    return moved | {f"{name}/{STEP}": carried_step(spec, item, step)} if share else moved
