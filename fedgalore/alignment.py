"""How alike the clients' optimizer states are, by layer: what `state_sync: ajive` found, for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean


@dataclass(frozen=True)
class Alignment:
    """`joint_rank`: directions that the second moments of all clients share; a mean where it tells of a layer.

    `explained`: by client, the share of its second moment's squared norm that lies in them, from 0 to 1.
    """

    joint_rank: float
    explained: dict[str, float] = field(default_factory=dict)


def by_layer(matrices: Mapping[str, Alignment]) -> dict[str, Alignment]:
    """Means over each layer's matrices, by the layer's name, in the model's order of numbers."""
    layers: dict[str, list[Alignment]] = {}
    for name in sorted(matrices, key=_in_order):
        layers.setdefault(layer_of(name), []).append(matrices[name])
    return {layer: _mean(found) for layer, found in layers.items()}


def layer_of(parameter: str) -> str:
    """A parameter's layer: its name up to the first number, or without its last part where it has none."""
    parts = parameter.split(".")
    numbers = [place for place, part in enumerate(parts) if part.isdecimal()]
    return ".".join(parts[: numbers[0] + 1] if numbers else parts[:-1] or parts)


def _in_order(parameter: str) -> list[tuple[bool, int, str]]:
    """Numbers as numbers: layer 10 comes after layer 9."""
    return [(part.isdecimal(), int(part) if part.isdecimal() else 0, part) for part in parameter.split(".")]


def _mean(matrices: list[Alignment]) -> Alignment:
    clients = matrices[0].explained
    explained = {client: fmean(matrix.explained[client] for matrix in matrices) for client in clients}
    return Alignment(fmean(matrix.joint_rank for matrix in matrices), explained)
