"""A client's change in few bytes, with error feedback: what does not fit goes with the client's next update.

PowerSGD, https://arxiv.org/abs/1905.13727, has both ideas: low-rank factors, and a residue that is not lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedgalore.maths.projector import project, range_basis
from fedgalore.maths.quantization import Code, quantize, quantize_together, told_by


@dataclass(frozen=True)
class Sent:
    """A tensor on the wire, float32 or quantized, and the float32 `tensor` that its receiver reads."""

    wire: Tensor
    tensor: Tensor


@dataclass(frozen=True)
class Compressed:
    """`change = left @ right + residue` to float32 rounding: `left (d, q)`, `right (q, k)`, `residue (d, k)` float32.

    The columns of `left` are orthonormal to the rounding of its entries, those that carry most of the change first.
    """

    left: Sent
    right: Sent
    residue: Tensor


def compress(
    change: Tensor,
    rank: int,
    generator: torch.Generator,
    left: Code | None = None,
    right: Code | None = None,
) -> Compressed:
    """The leading part of `change (d, k)`; rounding is part of what the residue holds.

    With `X` the change, `U` its leading left directions and `C` the rounding to the wire, along `d` and along `k`:
    `left = C(U)`, `right = C((left^T left)^-1 left^T X)`.

    Args:
        change: oriented, float32; the residue takes its place in memory.
        rank: `q`, at most `d`.
        left, right: how the factors travel; None: exactly.

    Raises:
        NotQuantizable: with a quantization, where the change holds NaN or infinite values.
        torch.linalg.LinAlgError: such a change has no singular vectors.
    """
    basis = rounded(range_basis(change, rank, generator), left)
    factor = rounded(least_squares(basis.tensor, project(basis.tensor, change)), right)
    return Compressed(basis, factor, change.addmm_(basis.tensor, factor.tensor, alpha=-1))


def least_squares(left: Tensor, projected: Tensor) -> Tensor:
    """`(L^T L)^-1 Y`, which makes `L` times it the closest to `X`, from `left (d, q)` and `projected = L^T X (q, k)`.

    The columns of a rounded left factor are no longer orthonormal: at 4 bits `L^T X` alone would leave out up to half
    as much again. Solved in float64. Leading batch dimensions are allowed.
    """
    wide = left.double()
    solved: Tensor = torch.linalg.solve(wide.mT @ wide, projected.double())
    return solved.to(projected.dtype)


def with_feedback(change: Tensor, left_out: Tensor | None, code: Code | None) -> tuple[Tensor, Tensor | None]:
    """A change that is sent whole, as it travels with what rounding left out before; and what it leaves out now.

    Args:
        change: float32.
        left_out: by the changes before; None: nothing.
        code: None: exactly, so that nothing is left out.

    Raises:
        NotQuantizable: as `rounded`.
    """
    if left_out is not None:
        change = change + left_out
    sent = rounded(change, code)
    return sent.wire, change - sent.tensor if code is not None else None


def rounded(tensor: Tensor, code: Code | None) -> Sent:
    """A float32 tensor as it travels; None: exactly.

    Raises:
        NotQuantizable: with a quantization, where the tensor holds NaN, infinities or what the code has no sign for.
    """
    if code is None:
        return Sent(tensor, tensor)
    data = quantize(tensor, code.bits, code.axis, code.signed)
    return Sent(data, told_by(data, code))


def rounded_together(tensors: Tensor, code: Code | None) -> Sent:
    """As `rounded`, each of `tensors (B, *shape)`; both of its result are batches."""
    wire = encoded_together(tensors, code)
    return Sent(wire, told_by(wire, code))


def encoded_together(tensors: Tensor, code: Code | None) -> Tensor:
    """Each of `tensors (B, *shape)` as it travels, where nobody asks what its receiver reads."""
    return tensors if code is None else quantize_together(tensors, code.bits, code.axis, code.signed)
