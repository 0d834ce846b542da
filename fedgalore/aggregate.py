"""The mean of the clients' updates in the full space, held as factors. ALGORITHM, "Server, one round", points 1 and 2.

Shapes: `B` matrices of equal shape `(d, k)`, oriented; `left (B, d, q)` orthonormal, `right (B, q, k)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedgalore.plan import factors_are_smaller


@dataclass(frozen=True)
class Aggregate:
    """`dW = left @ right`, its left factor's columns sorted by how much of `dW` they carry.

    `residue (B, d, k)` is what truncation left for the next round; None when nothing was truncated.
    """

    left: Tensor
    right: Tensor
    residue: Tensor | None = None

    def reference_basis(self, rank: int) -> Tensor:
        """Top left singular vectors of `dW`, `(B, d, rank)`."""
        return self.left[..., :rank]

    @property
    def is_smaller_than_dense(self) -> bool:
        return factors_are_smaller(self.left.shape[-2], self.right.shape[-1], self.left.shape[-1])


def mean_of_factors(bases: Tensor, factors: Tensor, weights: Tensor) -> Aggregate:
    """`sum_i p_i sum_j P_ij S_ij` exactly, by a thin QR of the stacked bases and an SVD of the small core.

    Args:
        bases: `P_ij`, `(M, J, B, d, r)`.
        factors: `S_ij`, `(M, J, B, r, k)`.
        weights: `p_i`, `(M,)` float64, summing to 1.
    """
    clients, stretches, batch, d, rank = bases.shape
    k = factors.shape[-1]
    stacked = bases.permute(2, 3, 0, 1, 4).reshape(batch, d, clients * stretches * rank).double()
    weighted = factors.double() * weights.to(factors.device)[:, None, None, None, None]
    tall = weighted.permute(2, 0, 1, 3, 4).reshape(batch, clients * stretches * rank, k)
    span, triangle = torch.linalg.qr(stacked)
    return _sorted(span, triangle @ tall)


def _sorted(span: Tensor, core: Tensor) -> Aggregate:
    """`span @ core` with the span rotated so that its columns carry less and less."""
    _, vectors = torch.linalg.eigh(core @ core.mT)
    vectors = vectors.flip(-1)
    return Aggregate((span @ vectors).float(), (vectors.mT @ core).float())


def truncate(aggregate: Aggregate, rank: int, residue: Tensor | None) -> Aggregate:
    """The best rank-`rank` part of `dW + residue`; the rest is the next residue: error feedback, nothing is lost."""
    total = aggregate.left.double() @ aggregate.right.double()
    if residue is not None:
        total = total + residue.double()
    _, vectors = torch.linalg.eigh(total @ total.mT)
    left = vectors.flip(-1)[..., :rank]
    right = left.mT @ total
    return Aggregate(left.float(), right.float(), (total - left @ right).float())


def apply_factors(weight: Tensor, decay: float, left: Tensor, right: Tensor) -> Tensor:
    """`decay W + left @ right` for one oriented matrix `(d, k)`; server and clients get the same bits by calling it."""
    return torch.addmm(weight.contiguous(), left.contiguous(), right.contiguous(), beta=decay)


def apply_dense(weight: Tensor, decay: float, change: Tensor) -> Tensor:
    """`decay W + change`, element by element."""
    return weight * decay + change


def mean_of_dense(changes: Tensor, weights: Tensor) -> Tensor:
    """`sum_i p_i change_i` in float64 and the order given; `changes (M, ...)`, result float32."""
    total = torch.zeros_like(changes[0], dtype=torch.float64)
    for change, weight in zip(changes, weights.tolist(), strict=True):
        total += weight * change.double()
    return total.float()
