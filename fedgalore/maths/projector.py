"""Low-rank gradient subspaces: find a basis, project into it and back.

GaLore, https://arxiv.org/abs/2403.03507. Shapes: gradient `G (d, k)` with `d <= k` (a tall weight is transposed),
basis `P (d, r)` with orthonormal columns, projected gradient `R = P^T G (r, k)`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

OVERSAMPLING = 4  # columns of the range finder beyond the rank
POWER_ITERATIONS = 2
_CPU: dict[str, Any] = {"device": "cpu", "dtype": torch.float32}  # whatever a user's defaults are


def orient(weight: Tensor) -> Tensor:
    """The matrix as a `(d, k)` view with `d <= k`: itself, or its transpose when it is tall."""
    return weight.mT if weight.shape[-2] > weight.shape[-1] else weight


def range_basis(gradient: Tensor, rank: int, generator: torch.Generator) -> Tensor:
    """Top-`rank` left singular vectors of `gradient (d, k)`, as `(d, rank)` float32.

    A randomized range finder (Halko, Martinsson, Tropp 2011, algorithms 4.4 and 5.1) with two power iterations;
    `generator` lives on the CPU, so every device draws the same test matrix. At full rank the basis is the identity:
    there is nothing to leave out, and a rotation would only add rounding.
    """
    d, k = gradient.shape
    if rank >= d:
        return torch.eye(d, device=gradient.device, dtype=torch.float32)
    gradient = gradient.float()
    width = min(rank + OVERSAMPLING, d)
    test_matrix = torch.randn(k, width, generator=generator, **_CPU).to(gradient.device)
    span: Tensor
    span, _ = torch.linalg.qr(gradient @ test_matrix)
    for _ in range(POWER_ITERATIONS):
        rows, _ = torch.linalg.qr(gradient.T @ span)
        span, _ = torch.linalg.qr(gradient @ rows)
    return span @ leading_left_vectors(span.T @ gradient, rank)


def sampled_basis(gradient: Tensor, rank: int, pool: int, generator: torch.Generator) -> Tensor:
    """`rank` of the `pool * rank` leading left singular vectors of `gradient (d, k)`, as `(d, rank)` float32.

    Drawn without replacement in proportion to their singular values, by `generator` on the CPU; in their own order.
    Always the leading ones would train the same few directions round after round, at every client. Importance sampling
    of subspaces: SARA, arXiv 2502.05790; the Gumbel-top-k trick draws it.
    """
    d = gradient.shape[0]
    if pool == 1 or rank >= d:
        return range_basis(gradient, rank, generator)
    candidates = range_basis(gradient, min(pool * rank, d - 1), generator)
    strength = project(candidates, gradient.float()).norm(dim=1).log().cpu()
    uniform = torch.rand(len(strength), generator=generator, **_CPU).clamp(min=1e-12)
    drawn = (strength - (-uniform.log()).log()).topk(rank).indices.sort().values
    return candidates[:, drawn.to(candidates.device)].contiguous()


def leading_left_vectors(matrix: Tensor, rank: int) -> Tensor:
    """Top-`rank` left singular vectors `(..., d, rank)` of `matrix (..., d, k)`, from its Gram matrix in float64."""
    wide = matrix.double()
    vectors: Tensor = torch.linalg.eigh(wide @ wide.mT).eigenvectors
    return vectors.flip(-1)[..., :rank].to(matrix.dtype)


def project(basis: Tensor, gradient: Tensor) -> Tensor:
    """`R = P^T G`."""
    return basis.mT @ gradient


def project_back(basis: Tensor, update: Tensor) -> Tensor:
    """`P N`, a full-size step from one inside the subspace."""
    return basis @ update
