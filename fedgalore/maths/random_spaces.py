"""Uniformly random subspaces: rows of them, and how much they have in common by chance."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from fedgalore.maths.seeding import derive_seed

DRAWS = 100
QUANTILE = 0.05
SIMULATED = 32  # rows in random spaces, all together, of which draws are made; more follow the law of their limit
TRACY_WIDOM = 0.9793  # the quantile 1 - QUANTILE of Tracy and Widom's law for real matrices


def random_orthonormal_rows(draws: int, ambient: int, rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """The first `rows` rows of uniformly random `ambient x columns` orthonormal matrices: `(draws, rows, columns)`.

    With `G` Gaussian, `G (G^T G)^{-1/2}` is uniform. Only the kept rows are drawn; the others enter through their Gram
    matrix, a Wishart matrix that Bartlett's decomposition draws directly.
    """
    kept = torch.randn(draws, rows, columns, dtype=torch.float64, generator=generator)
    gram = kept.mT @ kept
    if ambient > rows:
        gram = gram + wishart(draws, columns, ambient - rows, generator)
    return kept @ _inverse_root(gram)


def _inverse_root(gram: Tensor) -> Tensor:
    """`W^{-1/2}` of a positive definite `W`."""
    energies, vectors = torch.linalg.eigh(gram)
    root: Tensor = (vectors / energies.sqrt()[..., None, :]) @ vectors.mT
    return root


def wishart(draws: int, size: int, freedom: int, generator: torch.Generator) -> Tensor:
    """Gram matrices `G^T G` of Gaussian `G (freedom, size)`: `(draws, size, size)`, by Bartlett where it is smaller."""
    if freedom <= size:
        gaussian = torch.randn(draws, freedom, size, dtype=torch.float64, generator=generator)
        return gaussian.mT @ gaussian
    lower = torch.randn(draws, size, size, dtype=torch.float64, generator=generator).tril(-1)
    degrees = freedom - torch.arange(size, dtype=torch.float64)
    # chi-square(n) = 2 Gamma(n / 2)
    diagonal = (2 * torch._standard_gamma((degrees / 2).expand(draws, size).contiguous(), generator=generator)).sqrt()
    lower = lower + torch.diag_embed(diagonal)
    return lower @ lower.mT


def random_direction_bounds(ranks: Tensor, k: int, seed: int) -> Tensor:
    """`(B,)`: the squared singular value that unrelated random row spaces of these ranks `(B, M)` reach by chance."""
    families = ranks.cpu().clamp_max(k)
    bounds = chance_edges(families.double() / k, k)
    for index in (families.sum(-1) <= SIMULATED).nonzero()[:, 0].tolist():
        rows = tuple(sorted(rank for rank in families[index].tolist() if rank > 0))
        bounds[index] = _random_direction_bound(rows, k, seed)
    return bounds


def chance_edges(shares: Tensor, k: int) -> Tensor:
    """The same for many row spaces, in their limit: `(B,)` for shares `t_i = r_i / k` `(B, M)`.

    A sum of random projections has, as free probability says (Voiculescu 1986), its upper edge at the minimum over `g`
    of `1 / g + sum_i R(g, t_i)`, with the projections' R-transforms `R = 2 t / (1 - g + sqrt((1 - g)^2 + 4 t g))`; the
    largest eigenvalue is spread about it by Tracy and Widom's law (1996), on a scale that the curvature gives.
    """

    def inverse_transform(g: Tensor) -> Tensor:
        root = ((1 - g).square()[:, None] + 4 * shares * g[:, None]).sqrt()
        parts = 2 * shares / (root + (1 - g)[:, None])
        return 1 / g + torch.where(shares > 0, parts, 0).sum(-1)

    low, high = (torch.full_like(shares[:, 0], end) for end in (-15.0, 15.0))  # of log g
    for _ in range(64):  # ternary search
        third = (high - low) / 3
        falls = inverse_transform((low + third).exp()) > inverse_transform((high - third).exp())
        low, high = torch.where(falls, low + third, low), torch.where(falls, high, high - third)
    g = ((low + high) / 2).exp()
    edge = inverse_transform(g)
    step = 1e-3 * g
    curvature = (inverse_transform(g + step) - 2 * edge + inverse_transform(g - step)) / step.square()
    spread = (curvature.clamp_min(0) / (2 * k**2)) ** (1 / 3)
    return torch.minimum(edge + TRACY_WIDOM * spread, (shares > 0).sum(-1).double())


@lru_cache(maxsize=4096)
def _random_direction_bound(ranks: tuple[int, ...], k: int, seed: int) -> float:
    """A high quantile of the largest squared singular value of stacked random row spaces, by their Gram matrix."""
    if not ranks:
        return 0.0
    generator = torch.Generator().manual_seed(derive_seed(seed, "random directions", k, *ranks))
    gram = wishart(DRAWS, sum(ranks), k, generator)
    # orthonormalise each space: W^{-1/2} of its own block on both sides
    whiten = torch.zeros_like(gram)
    start = 0
    for rank in ranks:
        block = slice(start, start + rank)
        whiten[:, block, block] = _inverse_root(gram[:, block, block])
        start += rank
    largest = torch.linalg.eigvalsh(whiten @ gram @ whiten)[:, -1]
    return float(largest.quantile(1 - QUANTILE))
