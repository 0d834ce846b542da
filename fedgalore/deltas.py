"""A target's change as it goes down, as factors or as a matrix, and what it makes of the weight."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from fedgalore.maths.mean import apply_dense, apply_factors
from fedgalore.maths.projector import orient
from fedgalore.spec.plan import Target

Reader = Callable[[str], Tensor]
Lookup = Callable[[str], Tensor | None]  # None: there is no such tensor


def nothing(name: str) -> None:
    """A `Lookup` that holds no tensor."""


def apply_change(target: Target, old: Tensor, aggregate: Mapping[str, Tensor], decay: float) -> Tensor:
    """`decay W + change`, with the change as factors, as a matrix, or absent."""
    if f"{target.name}/left" in aggregate:
        left, right = aggregate[f"{target.name}/left"], aggregate[f"{target.name}/right"]
        return orient_back(apply_factors(orient(old), decay, left.float(), right.float()), target)
    if f"{target.name}/dense" in aggregate:
        return apply_dense(old, decay, aggregate[f"{target.name}/dense"])
    return old.clone()


def change_in(target: Target, aggregate: Lookup) -> Tensor | None:
    """What an aggregate changes a target by, in the weight's own shape; None where it leaves it alone."""
    left, right = aggregate(f"{target.name}/left"), aggregate(f"{target.name}/right")
    if left is not None and right is not None:
        return orient_back(left.float() @ right.float(), target)
    return aggregate(f"{target.name}/dense")


def orient_back(matrix: Tensor, target: Target) -> Tensor:
    """An oriented `(d, k)` matrix in the weight's own shape, contiguous."""
    return (matrix.mT if target.tall else matrix).contiguous()
