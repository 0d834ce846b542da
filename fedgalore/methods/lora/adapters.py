"""Adapters as tensors: how they begin, what they make of a weight, and their products as factors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedgalore.deltas import Reader
from fedgalore.maths.seeding import derive_seed
from fedgalore.methods.lora.layout import lora_spec
from fedgalore.model.inputs import TaskError
from fedgalore.rounds import ServerRound, Start
from fedgalore.spec.plan import Target, TrainingPlan, adapter_shapes

Adapter = tuple[Tensor, Tensor]  # A, B


def new_adapter(target: Target, rank: int, seed: int) -> Adapter:
    """A drawn as PEFT draws it (uniform, He et al. 2015, gain of a = sqrt 5), B zero."""
    shapes = adapter_shapes(target, rank)
    first = torch.empty(shapes["lora_A"])
    nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=torch.Generator().manual_seed(seed))
    return first, torch.zeros(shapes["lora_B"])


def product(target: Target, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """`B (out, q)` and `A (q, in)` as factors of the weight's own shape."""
    return (right.mT.contiguous(), left.mT.contiguous()) if target.fan_in_fan_out else (left, right)


def exchanged(target: Target, weight: Tensor, scale: float, new: Adapter | None, old: Adapter | None) -> Tensor:
    """`W + s (B' A' - B A)` in one product, so that server and clients round alike."""
    parts = [(new, scale)] * (new is not None) + [(old, -scale)] * (old is not None)
    right = torch.cat([factor * pair[0] for pair, factor in parts if pair is not None])
    left = torch.cat([pair[1] for pair, _ in parts if pair is not None], dim=1)
    return torch.addmm(weight.contiguous(), *product(target, left, right))


def drawn_adapter(target: Target, seed: int) -> Adapter:
    """The `new_adapter` that all clients of a job with this seed start with."""
    return new_adapter(target, target.rank, derive_seed(seed, "lora", target.name))


def carried_adapters(plan: TrainingPlan, adapter_of: Callable[[Target], Adapter]) -> dict[str, Tensor]:
    """The adapters of all targets as version 0 holds them."""
    tensors: dict[str, Tensor] = {}
    for target in plan.targets:
        tensors[f"{target.name}/lora_A"], tensors[f"{target.name}/lora_B"] = adapter_of(target)
    return tensors


def start_adapter(target: Target, start: Start) -> Adapter:
    """The adapter that a model version holds for a target.

    Raises:
        TaskError: it is missing or has another shape.
    """
    for part, shape in adapter_shapes(target, target.rank).items():
        tensor = start.weights.get(f"{target.name}/{part}")
        if tensor is None or tuple(tensor.shape) != shape:
            raise TaskError(
                f"weights: {target.name}/{part} is missing or not of shape {shape}; "
                "a job with adapters starts from `ServerHalf.carried` beside the model's weights"
            )
    return read_adapter(target, start.weights.__getitem__)


def read_adapter(target: Target, read: Reader) -> Adapter:
    return read(f"{target.name}/lora_A"), read(f"{target.name}/lora_B")


def scaled_products(targets: Sequence[Target], adapters: Sequence[Adapter], scale: float) -> tuple[Tensor, Tensor]:
    """`s B A` of one client for a group of targets, as oriented factors `(B, d, r)` and `(B, r, k)`."""
    lefts, rights = [], []
    for target, (first, second) in zip(targets, adapters, strict=True):
        left, right = product(target, second, scale * first)
        lefts.append(right.mT if target.tall else left)
        rights.append(left.mT if target.tall else right)
    return torch.stack(lefts), torch.stack(rights)


def client_products(targets: Sequence[Target], round: ServerRound) -> tuple[list[Tensor], list[Tensor]]:
    """`scaled_products` of every client, on the device."""
    scale = lora_spec(round.spec).scale
    pairs = [
        scaled_products(targets, [read_adapter(target, client.read) for target in targets], scale)
        for client in round.clients
    ]
    return [left.to(round.device) for left, _ in pairs], [right.to(round.device) for _, right in pairs]
