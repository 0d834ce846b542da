"""Readers of tensors; a target's change as it goes down, as factors or as a matrix, and what it makes of the weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from fedgalore.maths.mean import apply_dense, apply_factors
from fedgalore.maths.projector import orient
from fedgalore.maths.quantization import told_by
from fedgalore.spec.plan import Dense, Target, TensorSpec

Reader = Callable[[str], Tensor]
Lookup = Callable[[str], Tensor | None]  # None: there is no such tensor


def decoded(read: Reader, tensors: Mapping[str, TensorSpec]) -> Reader:
    """Reads quantized tensors as the float32 matrices that they tell, each when it is asked for; others as they are.

    Args:
        tensors: of the file that `read` reads, as its layout lists them.
    """

    def matrix(name: str) -> Tensor:
        return told_by(read(name), tensors[name].quantization)

    return matrix


def decoded_together(read: Reader, tensors: Mapping[str, TensorSpec]) -> Callable[[Sequence[str]], Tensor]:
    """As `decoded`, for tensors of one kind: a batch `(B, ...)`, whose bytes are read before any is decoded."""

    return lambda names: together([read(name) for name in names], tensors[names[0]])


def together(read: Sequence[Tensor], file: TensorSpec, device: torch.device | None = None) -> Tensor:
    """Tensors of one kind, as files hold them, as a batch `(B, ...)` on the device: it takes the fewest bytes there."""
    return told_by(torch.stack(list(read)).to(device), file.quantization)


def nothing(name: str) -> None:
    """A `Lookup` that holds no tensor."""


def apply_change(target: Target, old: Tensor, aggregate: Mapping[str, Tensor], decay: float) -> Tensor:
    """`decay W + change`, with the change as factors, as a matrix, or absent."""
    if f"{target.name}/left" in aggregate:
        left, right = aggregate[f"{target.name}/left"], aggregate[f"{target.name}/right"]
        return orient_back(apply_factors(orient(old), decay, left, right), target)
    if f"{target.name}/dense" in aggregate:
        return apply_dense(old, decay, aggregate[f"{target.name}/dense"])
    return old.clone()


def change_of(item: Target | Dense, aggregate: Mapping[str, Tensor]) -> Tensor | None:
    """What the clients changed an item by together, in the weight's own shape; None where they left it alone."""
    if isinstance(item, Dense):
        return aggregate[f"{item.name}/delta"]
    if f"{item.name}/left" in aggregate:
        return orient_back(aggregate[f"{item.name}/left"] @ aggregate[f"{item.name}/right"], item)
    return aggregate.get(f"{item.name}/dense")


def orient_back(matrix: Tensor, target: Target) -> Tensor:
    """An oriented `(d, k)` matrix in the weight's own shape, contiguous."""
    return (matrix.mT if target.tall else matrix).contiguous()
