"""A model's layers spread over several devices: which layer lies where, and what carries values from one to the next.

Each device holds a run of layers that follow one another, and they work one after the other: this is for room, not
for speed. Blocks that transformers keeps whole (`_no_split_modules`) stay so; parts that share a weight lie together.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, combinations
from typing import Any

import torch
from torch import Tensor, nn

from fedgalore.model.inputs import TaskError
from fedgalore.spec.amounts import size

Rooms = Mapping[torch.device, int]  # bytes that a model may take of each device


@dataclass(frozen=True)
class Spread:
    """Several devices, and the bytes that a model takes with all that belongs to it; each layer takes its share."""

    rooms: Rooms
    needed: int = 0

    def over(self, model: nn.Module) -> nn.Module:
        """The model with each layer on a device, where a pass carries its inputs; outputs are where inputs belong.

        A model that cannot be spread lies on the roomiest device, if there is room.

        Raises:
            TaskError: a layer does not fit the device that is the best one for it, or such a model does not fit.
        """
        roomiest = max(self.rooms, key=lambda device: self.rooms[device])
        try:
            parts = parts_of(model)
        except TaskError:
            if self.needed > self.rooms[roomiest]:
                raise
            return model.to(roomiest)
        for name, device in device_map(parts, self.rooms, self.needed).items():
            parts[name].to(device)
            parts[name].register_forward_pre_hook(partial(_carry_in, device), with_kwargs=True)
        model.register_forward_hook(partial(_carry_out, first_device(model)))
        return model


def first_device(model: nn.Module) -> torch.device:
    """Where a model's first layer lies, and its inputs belong."""
    return next(model.parameters()).device


def device_map(parts: Mapping[str, nn.Module], rooms: Rooms, needed: int) -> dict[str, torch.device]:
    """Where each part of `parts_of` lies: the fullest device is as empty as it can be, by its share.

    Raises:
        TaskError: even so a device has less room than what lies there needs.
    """
    groups = _together(parts)
    sizes = [sum(parameter.numel() for parameter in _parameters(parts, group)) for group in groups]
    chosen, devices = runs(sizes, list(rooms.values())), list(rooms)
    for index, (device, room) in enumerate(rooms.items()):
        share = sum(taken for taken, at in zip(sizes, chosen, strict=True) if at == index) / max(1, sum(sizes))
        if (load := round(needed * share)) > room:
            raise TaskError(
                f"device: layers on {device} need about {size(load)}, and there are {size(room)}, with the model "
                f"spread over {len(rooms)} devices; free memory there, set local.weights: bfloat16, or take a smaller "
                "model"
            )
    return {name: devices[index] for group, index in zip(groups, chosen, strict=True) for name in group}


def runs(sizes: Sequence[int], rooms: Sequence[int]) -> list[int]:
    """Which room each size goes to: runs in their order, the largest share of a room taken as small as it can be."""
    sums, rooms = [0, *accumulate(sizes)], [max(1, room) for room in rooms]
    shares = sorted({(end - start) / room for start, end in combinations(sums, 2) for room in rooms} | {0.0})
    least = bisect_left(shares, True, key=lambda share: _filled(sizes, rooms, share) is not None)
    return _filled(sizes, rooms, shares[least]) or []


def _filled(sizes: Sequence[int], rooms: Sequence[int], share: float) -> list[int] | None:
    """Rooms filled one after the other, each up to this share; None where that is too little for all."""
    chosen, index, load = list[int](), 0, 0
    for each in sizes:
        while index < len(rooms) and (load + each) / rooms[index] > share:
            index, load = index + 1, 0
        if index == len(rooms):
            return None
        load += each
        chosen.append(index)
    return chosen


def parts_of(model: nn.Module) -> dict[str, nn.Module]:
    """What stays whole, by name, in the model's order: its blocks, and what lies beside them and has tensors.

    Raises:
        TaskError: nobody says what the blocks are, or a tensor lies between them.
    """
    kinds = frozenset(getattr(model, "_no_split_modules", None) or ())
    if not any(type(module).__name__ in kinds for module in model.modules()):
        raise TaskError(
            f"device: {type(model).__name__} cannot be spread over several devices, because transformers does not say "
            "which of its layers belong together; it needs a device with room for all of it"
        )
    return dict(_parts("", model, kinds))


def _parts(name: str, module: nn.Module, kinds: frozenset[str]) -> Iterator[tuple[str, nn.Module]]:
    is_block = type(module).__name__ in kinds
    if is_block or not any(type(inner).__name__ in kinds for inner in module.modules()):
        if any(True for _ in _tensors(module)):
            yield name, module
        return
    if own := next(_tensors(module, recurse=False), None):
        raise TaskError(
            f"device: {type(module).__name__} cannot be spread over several devices, because {own} lies between its "
            "layers; it needs a device with room for all of it"
        )
    for child, inner in module.named_children():
        yield from _parts(f"{name}.{child}".lstrip("."), inner, kinds)


def _tensors(module: nn.Module, *, recurse: bool = True) -> Iterator[str]:
    yield from (name for name, _ in module.named_parameters(recurse=recurse))
    yield from (name for name, _ in module.named_buffers(recurse=recurse))


def _together(parts: Mapping[str, nn.Module]) -> list[list[str]]:
    """Names of parts that share a weight, such as an embedding and the output layer, where the first of them is."""
    groups: dict[str, list[str]] = {}
    leaders: dict[nn.Parameter, str] = {}
    for name, part in parts.items():
        leader = next((leaders[each] for each in part.parameters() if each in leaders), name)
        leaders |= {each: leaders.get(each, leader) for each in part.parameters()}
        groups.setdefault(leader, []).append(name)
    return list(groups.values())


def _parameters(parts: Mapping[str, nn.Module], group: Sequence[str]) -> set[nn.Parameter]:
    return {parameter for name in group for parameter in parts[name].parameters()}


def _carry_in(device: torch.device, _module: nn.Module, inputs: Any, named: Any) -> tuple[Any, Any]:
    return _carried(inputs, device), _carried(named, device)


def _carry_out(device: torch.device, _module: nn.Module, _inputs: Any, outputs: Any) -> Any:
    return _carried(outputs, device)


def _carried(value: Any, device: torch.device) -> Any:
    """A value with all of its tensors on a device; a cache of transformers keeps each layer's where they are."""
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(_carried(each, device) for each in value)
    if isinstance(value, dict):  # transformers' outputs among them
        held = copy(value)
        for name, each in value.items():
            held[name] = _carried(each, device)
        return held
    return value
