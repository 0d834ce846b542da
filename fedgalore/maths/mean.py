"""The mean of the clients' updates in the full space, held as factors. ALGORITHM, "Server, one round", points 1 and 2.

Shapes: `B` matrices of equal shape `(d, k)`, oriented; `left (B, d, q)`, `right (B, q, k)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

BLOCK = 2**15  # elements of each client and thread that are combined at a time
LONGEST = 2.0**63  # column of a left factor or row of a right one: float32 holds the product of two such


@dataclass(frozen=True)
class Factors:
    """`dW = left @ right`."""

    left: Tensor
    right: Tensor

    def leading(self, rank: int) -> Factors:
        """The first columns and rows alone."""
        return Factors(self.left[..., :rank], self.right[..., :rank, :])


def in_blocks(tensors: Sequence[Tensor], combine: Callable[[list[Tensor]], Tensor]) -> Tensor:
    """What tensors of equal shape come to, element by element; float32.

    On a processor some elements at a time: all that `combine` makes of them in float64 stays in its cache, where whole
    tensors would go through memory once for every client and step. The bits are the same.

    Args:
        tensors: one of each client.
        combine: takes their blocks, flat and of equal length.
    """
    first = tensors[0]
    size = BLOCK * torch.get_num_threads() if first.device.type == "cpu" else max(1, first.numel())
    result = torch.empty(first.shape, dtype=torch.float32, device=first.device)
    parts = zip(*(tensor.reshape(-1).split(size) for tensor in tensors), strict=True)
    for into, blocks in zip(result.view(-1).split(size), parts, strict=True):
        into.copy_(combine(list(blocks)))
    return result


class Term(NamedTuple):
    """`weight left right`, for `left (B, d, q)` and `right (B, q, k)`."""

    left: Tensor
    right: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Terms:
    """`dW` as a sum of terms, in their order, that nobody has added up."""

    terms: Sequence[Term]

    def times(self, weight: float) -> Terms:
        return Terms([term._replace(weight=weight * term.weight) for term in self.terms])


def as_terms(lefts: Sequence[Tensor], rights: Sequence[Tensor], weights: Sequence[float]) -> Terms:
    """`sum_i w_i left_i right_i`; arguments as of `mean_of_factors`."""
    return Terms([Term(*term) for term in zip(lefts, rights, weights, strict=True)])


def as_term(change: Tensor) -> Terms:
    """A matrix `(B, d, k)` float64 as the product of the identity and itself, float32."""
    batch, d, _ = change.shape
    return Terms([Term(torch.eye(d, device=change.device).expand(batch, d, d), change.float())])


def mean_of_factors(lefts: Sequence[Tensor], rights: Sequence[Tensor], weights: Sequence[float]) -> Factors:
    """`sum_i w_i left_i right_i` exactly, the columns of its left factor orthonormal and sorted by what they carry.

    By a thin QR of the stacked left factors and an eigendecomposition of the small core, in float64.

    Args:
        lefts: bases `P_ij` or any left factors, each `(B, d, r_i)`; the ranks may differ.
        rights: each `(B, r_i, k)`.
        weights: one for each pair.
    """
    stacked = torch.cat([left.double() for left in lefts], dim=-1)
    tall = torch.cat([weight * right.double() for right, weight in zip(rights, weights, strict=True)], dim=-2)
    span, triangle = torch.linalg.qr(stacked)
    return _sorted(span, triangle @ tall)


def of_matrix(change: Tensor) -> Factors:
    """A change of full rank, `(B, d, k)` float64, sorted as `mean_of_factors` does."""
    batch, d, _ = change.shape
    return _sorted(torch.eye(d, dtype=change.dtype, device=change.device).expand(batch, d, d), change)


def squared_norm_of_product(left: Tensor, right: Tensor, rounding: float = 0.0) -> Tensor:
    """`|left right|^2` in float64 without the product, for `left (..., d, q)` and `right (..., q, k)`.

    With `left = Q T` it is `|T right|^2`. Of Gram matrices it would be a difference of large sums: of factors that
    cancel, nothing of it would be right.

    Args:
        rounding: `(rounding A)^2` is added, with `A^2 = sum_j |left_j|^2 |right_j|^2` of the columns and rows.

    Returns:
        `(...)`; infinite where a column or a row is longer than `LONGEST` or holds what is not finite.
    """
    left, right = left.double(), right.double()
    columns, rows = left.square().sum(-2), right.square().sum(-1)
    _, triangle = torch.linalg.qr(left, mode="r")
    squared = (triangle @ right).square().sum((-2, -1)) + rounding**2 * (columns * rows).sum(-1)
    fits = (torch.maximum(columns, rows) <= LONGEST**2).all(-1)
    return torch.where(fits, squared, torch.inf)


def squared_norm(tensor: Tensor) -> float:
    """`|tensor|^2` in float64, some entries at a time: all of it would take twice its memory."""
    return sum(float(part.double().square().sum()) for part in tensor.reshape(-1).split(BLOCK))


def _sorted(span: Tensor, core: Tensor) -> Factors:
    """`span @ core` with the span rotated so that its columns carry less and less."""
    _, vectors = torch.linalg.eigh(core @ core.mT)
    vectors = vectors.flip(-1)
    return Factors((span @ vectors).float(), (vectors.mT @ core).float())


def apply_factors(weight: Tensor, decay: float, left: Tensor, right: Tensor) -> Tensor:
    """`decay W + left @ right` for one oriented matrix `(d, k)`; server and clients get the same bits by calling it."""
    return torch.addmm(weight.contiguous(), left.contiguous(), right.contiguous(), beta=decay)


def apply_dense(weight: Tensor, decay: float, change: Tensor) -> Tensor:
    """`decay W + change`, element by element."""
    return (weight * decay).add_(change)
