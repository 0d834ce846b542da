"""Adam's second moment as something that can be carried from one basis to another and combined across clients.

For a gradient `G (d, k)` and a basis `P (d, r)`: `V (r, k)` is the bias-corrected second moment of `R = P^T G`, and
`rho (1, k)` the mean second moment per direction *outside* the basis. Leading batch dimensions are allowed throughout.
After LDAdam, https://arxiv.org/abs/2410.16103, with the term for directions outside the basis added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fedgalore.maths.robust import median

BLOCK = 2**16  # entries whose squares are summed at a time on a CPU
FLOOR = 0.1
SMALLEST = 1e-30  # keeps a second moment positive where no client ever saw a gradient


@dataclass(frozen=True)
class SecondMomentSketch:
    """What a client tells of its optimizer state: `second_moment (r, k)` in `basis (d, r)`, `residual (1, k)`."""

    basis: Tensor
    second_moment: Tensor
    residual: Tensor

    @property
    def energy(self) -> Tensor:
        """`sum V + (d - r) rho (1, k)`: the second moment of each column of the gradient, in whatever basis."""
        d, r = self.basis.shape[-2:]
        return self.second_moment.sum(-2, keepdim=True) + (d - r) * self.residual


def transfer(second_moment: Tensor, residual: Tensor, overlap: Tensor) -> Tensor:
    """A second moment in a new basis: `(C o C) V + (1 - rowsum(C o C)) rho`, clamped at 0.

    Args:
        second_moment: `V (r_old, k)`.
        residual: `rho (1, k)`. Without it a direction that the old basis did not hold would start near 0 and take
            huge steps.
        overlap: `C = P_new^T P_old (r_new, r_old)`.

    Returns:
        `(r_new, k)`.
    """
    squared = overlap.square()
    outside = 1 - squared.sum(-1, keepdim=True)
    return (squared @ second_moment + outside * residual).clamp_min(0)


def carry(sketch: SecondMomentSketch, basis: Tensor) -> Tensor:
    """The sketch's second moment in `basis`."""
    return transfer(sketch.second_moment, sketch.residual, basis.mT @ sketch.basis)


def moved_to(basis: Tensor, sketch: SecondMomentSketch) -> SecondMomentSketch:
    """The sketch in another basis `(d, r)`; what that does not hold of each column's energy is in its `rho`."""
    second, d = carry(sketch, basis), sketch.basis.shape[-2]
    if d == basis.shape[-1]:
        return SecondMomentSketch(basis, second, torch.zeros_like(sketch.residual))
    outside = (sketch.energy - second.sum(-2, keepdim=True)).clamp_min(0) / (d - basis.shape[-1])
    return SecondMomentSketch(basis, second, outside)


def of_equal_size(sketches: Sequence[SecondMomentSketch]) -> list[SecondMomentSketch]:
    """The clients' sketches, each of a matrix scaled to the clients' median energy; without any it stays as it is.

    What combines them else follows whoever has the largest gradients: second moments grow with their square.
    """
    energies = torch.stack([sketch.energy.double().sum((-2, -1), keepdim=True) for sketch in sketches])
    factors = torch.where(energies > 0, median(energies) / energies, 1.0).float()
    return [
        SecondMomentSketch(sketch.basis, factor * sketch.second_moment, factor * sketch.residual)
        for sketch, factor in zip(sketches, factors, strict=True)
    ]


def residual_of(gradient: Tensor, projected: Tensor) -> Tensor:
    """`(colsum(G o G) - colsum(R o R)) / (d - r)`, `(1, k)`; 0 when the basis holds every direction."""
    d, r = gradient.shape[-2], projected.shape[-2]
    if d == r:
        return torch.zeros_like(projected[..., :1, :])
    energy = _column_energy(gradient) - projected.square().sum(-2, keepdim=True)
    return energy.clamp_min(0) / (d - r)


def _column_energy(matrix: Tensor) -> Tensor:
    """`colsum(G o G)`, `(1, k)`. On a CPU without a second matrix: memory asked for anew costs more than the sums."""
    if matrix.device.type != "cpu" or matrix.dim() != 2:
        return matrix.square().sum(-2, keepdim=True)
    if not matrix.is_contiguous():  # a transposed view: columns lie in one piece
        return torch.linalg.vector_norm(matrix, dim=-2, keepdim=True).square_()
    rows = max(1, BLOCK // matrix.shape[1])
    energy = torch.zeros(matrix.shape[1], dtype=matrix.dtype, device=matrix.device)
    for block in matrix.split(rows):
        energy += block.square().sum(0)
    return energy.unsqueeze(0)


def floored(second_moment: Tensor, mean: Tensor) -> Tensor:
    """Not below a tenth of the clients' plain mean, so that it stays a second moment: finite and above 0."""
    return torch.maximum(second_moment, FLOOR * mean).clamp_min(SMALLEST)
