"""The leading part of a product of thin factors, and what that leaves out, without forming the product.

A mean of low-rank changes is `A B`: in `A (B, d, n)` the clients' left factors stand side by side, in `B (B, n, k)`
their weighed right factors one below the other, and what earlier rounds left out is one more pair. The leading `B` is a
batch of matrices of equal shape, `n` is small against `d` and `k`, and no tensor here is as large as the `(d, k)`
product. ALGORITHM, "The leading part of a mean in factors".

    found = split(left, right, rank)                # its leading directions go down, rounded to l
    cut = Cut.of(l, found.span, left, right)        # cut.right goes with them, rounded to r
    rest = cut.residue(r, cap)                      # what the next round adds

Up to `GRAM_COLUMNS` columns go by `n x n` Gram matrices in float64, whose cost grows with `n^2`; more of them by a
seeded range finder in float32 (Halko, Martinsson, Tropp 2011, algorithms 4.4 and 5.1), linear in `n`. One code serves
every device. The bits hang on the order of the columns, so callers stack clients in the order of their names; and, as
of every matrix product, on the processor and the number of threads.

Columns may differ in scale by all that float32 can hold: each is weighed by what it adds to the product, and the scale
of that is taken out before anything is squared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from fedgalore.maths.mean import Factors

GRAM_COLUMNS = 384  # more columns go to the range finder
OVERSAMPLING = 8
POWER_ITERATIONS = 2
DEPENDENT = 1e-14  # eigenvalues of a Gram matrix below this share of the largest are rounding
LEVEL = 1e-12  # likewise, of columns in float32
BLOCK = 1024  # columns that are float64 at a time


class Split(NamedTuple):
    """The leading left directions of `A B`.

    `left (B, d, q)` float32: orthonormal columns, those that carry most first; columns of zeros where the factors span
    fewer directions. `span (B, d, w)` float32: these and those that carry most after them, for `Cut`.
    """

    left: Tensor
    span: Tensor


def split(left: Tensor, right: Tensor, rank: int, spare: int | None = None, seed: int = 0) -> Split:
    """The leading `rank` left directions of `left @ right`; all of them where there are fewer.

    Args:
        left: `(B, d, n)`, any floating type, taken as float32.
        right: `(B, n, k)`, likewise, on the same device.
        rank: at least 1; cut to the least of `d`, `n` and `k`.
        spare: how many directions after those `span` holds at least; default: as many again.
        seed: of the range finder's test matrix, which is drawn on the CPU.

    Raises:
        ValueError: the shapes do not fit, the rank is below 1, or a factor is not finite.
    """
    if left.dim() != 3 or right.dim() != 3 or left.shape[0] != right.shape[0] or left.shape[2] != right.shape[1]:
        shapes = f"{tuple(left.shape)} and {tuple(right.shape)}"
        raise ValueError(f"left, right: expected shapes (B, d, n) and (B, n, k), got {shapes}")
    if rank < 1:
        raise ValueError(f"rank: {rank} is below 1; keep one direction at least")
    left, right = left.float(), right.float()
    width = min(rank + (rank if spare is None else spare) + OVERSAMPLING, *left.shape[1:], right.shape[2])
    if left.shape[2] <= GRAM_COLUMNS:
        span = _span_by_gram_matrices(left, right, width)
    else:
        span = _span_by_range_finder(left, right, width, seed)
    return Split(span[..., :rank], span)


def leading_basis(change: Factors, rank: int, seed: int = 0) -> Tensor:
    """The leading `rank` left singular vectors of a change, `(B, d, rank)`, with any others where it has fewer."""
    basis = split(change.left, change.right, rank, spare=0, seed=seed).left
    basis = torch.nn.functional.pad(basis, (0, rank - basis.shape[-1]))
    missing = ~basis.any(-2)
    if not bool(missing.any()):
        return basis
    whole, _ = torch.linalg.qr(basis, mode="complete")  # its first columns span the first of the basis, up to sign
    return torch.where(missing[..., None, :], whole[..., :rank], basis)


@dataclass(frozen=True)
class Cut:
    """`A B` in a basis `Q (B, d, w)` of what is sent and what comes after it, where both ends of a cut are small.

    `core (B, w, k)` float64 is `Q^T A B`; `sent (B, w, q)` float64 is `Q^T l` of the left factor `l` that is sent.
    """

    basis: Tensor
    core: Tensor
    sent: Tensor

    @classmethod
    def of(cls, sent_left: Tensor, span: Tensor, left: Tensor, right: Tensor) -> Cut:
        """The cut of `left @ right` at `sent_left (B, d, q)`, which is a rounded part of `span`: of `split`."""
        basis = torch.cat([span, _beside(span, sent_left)], dim=-1)
        return cls(basis, _product(_mix(basis, left), right), _mix(basis, sent_left))

    @property
    def right(self) -> Tensor:
        """`(l^T l)^+ l^T A B (B, q, k)` float32: what goes best with `l`, which rounding left not orthonormal.

        A column of zeros gets a row of zeros.

        Raises:
            OverflowError: it exceeds the range of float32.
        """
        root, _ = _whitening(self.sent.mT @ self.sent)
        return _narrow(root @ (root.mT @ (self.sent.mT @ self.core)))

    def residue(self, sent_right: Tensor, cap: int) -> Factors:
        """The leading `cap` directions of `A B - l r` for `r (B, q, k)`, as the receivers decode it.

        Raises:
            OverflowError: it exceeds the range of float32.
        """
        rest = self.core - self.sent @ sent_right.double()
        order = _leading(_gram(rest), _are_directions(self.basis), min(cap, *rest.shape[1:]))
        return Factors((self.basis.double() @ order).float(), _narrow(order.mT @ rest))


def _span_by_gram_matrices(left: Tensor, right: Tensor, width: int) -> Tensor:
    """`A^T A = F L F^T`, `T = L^(1/2) F^T`, `V` the eigenvectors of `T B B^T T^T`: `A F L^(-1/2) V`.

    `A` has columns of norm 1 here, and `B` what they had, so that a small column with a large row is not dropped.
    """
    gram, other = _gram(left.mT), _gram(right)
    columns, rows = _diagonal(gram).sqrt(), _diagonal(other).sqrt()
    _check_finite(columns, rows)
    columns = _not_0(columns)
    weights = columns / _not_0((columns * rows).amax(-1, keepdim=True))
    gram = gram / (columns[..., :, None] * columns[..., None, :])
    other = other * (weights[..., :, None] * weights[..., None, :])
    whitening, keeps = _whitening(gram)
    spread = gram @ whitening  # T^T
    order = _leading(spread.mT @ other @ spread, keeps, width)
    return _product((whitening @ order / columns[..., None]).mT, left.mT).mT.float()


def _span_by_range_finder(left: Tensor, right: Tensor, width: int, seed: int) -> Tensor:
    columns, rows = _largest(left, -2), _largest(right, -1)
    _check_finite(columns, rows)
    size = _not_0((columns * rows).amax(-1))[..., None, None]

    def scaled(thin: Tensor) -> Tensor:  # float32 may not hold the size
        return (thin.double() / size).float()

    def forth(rows: Tensor) -> Tensor:
        return left @ scaled(right @ rows)

    def back(columns: Tensor) -> Tensor:
        return right.mT @ scaled(left.mT @ columns)

    generator = torch.Generator("cpu").manual_seed(seed)
    test_matrix = torch.randn(right.shape[-1], width, generator=generator, dtype=torch.float32, device="cpu")
    columns = forth(test_matrix.to(right.device))
    for _ in range(POWER_ITERATIONS):
        columns = forth(_levelled(back(_levelled(columns))))
    span = _orthonormal(_orthonormal(columns))  # once leaves what is weak not quite orthogonal
    return (span.double() @ _leading(_gram(back(span).mT), _are_directions(span), width)).float()


def _beside(span: Tensor, more: Tensor) -> Tensor:
    """An orthonormal basis of what the columns `more` have outside of an orthonormal `span`; zeros for rounding."""
    for _ in range(2):  # twice is enough
        outside = (more.double() - span.double() @ _mix(span, more)).float()
        more = _orthonormal(outside, like=more)
    return more


def _orthonormal(columns: Tensor, like: Tensor | None = None) -> Tensor:
    """An orthonormal basis of the columns' span in their type, with zeros where they depend on each other.

    What is rounding beside the columns `like` counts for nothing, either.
    """
    least = LEVEL * like.double().square().sum(-2).amax(-1)[..., None] if like is not None else None
    whitening, _ = _whitening(_gram(columns.mT), least)
    return (columns.double() @ whitening).to(columns.dtype)


def _levelled(columns: Tensor) -> Tensor:
    """The same span by columns of like size, by a shifted Cholesky factor: what a power iteration needs, and cheap."""
    gram = _gram(columns.mT)
    shift = LEVEL * _not_0(_diagonal(gram).amax(-1, keepdim=True))
    factor = torch.linalg.cholesky(gram + torch.diag_embed(shift.expand(gram.shape[:-1])))
    return torch.linalg.solve_triangular(factor.mT, columns.double(), upper=True, left=False).to(columns.dtype)


def _are_directions(basis: Tensor) -> Tensor:
    """Which columns `(B, w)` are not zeros."""
    return basis.square().sum(-2) > 0.5


def _whitening(gram: Tensor, least: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """`F L^(-1/2)` of `X^T X = F L F^T`: `X` times it is orthonormal.

    Columns of zeros stand where `L` is at most `least (B, 1)`, which is rounding when not given.

    Returns:
        The matrix `(B, n, n)`, and which of its columns are not zeros `(B, n)`.
    """
    values, vectors = torch.linalg.eigh(gram)
    keeps = values > (DEPENDENT * values[..., -1:] if least is None else least)
    return vectors / torch.where(keeps, values, torch.inf).sqrt()[..., None, :], keeps


def _leading(gram: Tensor, keeps: Tensor, count: int) -> Tensor:
    """The `count` leading eigenvectors `(B, w, count)` of a Gram matrix whose rows outside `keeps` are zeros.

    Those outside come last, as zeros: below all others, whose eigenvalues are at least 0, they mix with none of them.
    """
    dropped = torch.diag_embed((~keeps).to(gram.dtype))
    values, vectors = torch.linalg.eigh(gram / _not_0(_diagonal(gram).amax(-1))[..., None, None] - dropped)
    return (vectors * (values > -0.5)[..., None, :]).flip(-1)[..., :count]


def _mix(basis: Tensor, left: Tensor) -> Tensor:
    """`basis^T left` in float64."""
    return _product(left.mT, basis).mT


def _gram(rows: Tensor) -> Tensor:
    """`X X^T` in float64, for `X (B, n, k)`."""
    return sum((block @ block.mT for block in _blocks(rows)), start=rows.new_zeros((), dtype=torch.float64))


def _product(mix: Tensor, right: Tensor) -> Tensor:
    """`mix @ right` in float64, for `mix (B, q, n)` and a wide `right (B, n, k)`."""
    mix = mix.double()
    product = mix.new_empty(*mix.shape[:-1], right.shape[-1])
    for block, into in zip(_blocks(right), product.split(BLOCK, dim=-1), strict=True):
        torch.matmul(mix, block, out=into)
    return product


def _blocks(wide: Tensor) -> Iterator[Tensor]:
    """A wide matrix `(B, n, k)` in float64, some columns at a time: all of it would take twice its memory."""
    return (block.double() for block in wide.split(BLOCK, dim=-1))


def _narrow(product: Tensor) -> Tensor:
    if bool(product.abs().amax() > torch.finfo(torch.float32).max):
        raise OverflowError("the product of the factors exceeds the range of float32")
    return product.float()


def _check_finite(columns: Tensor, rows: Tensor) -> None:
    if not bool(torch.isfinite(columns + rows).all()):
        raise ValueError("left, right: a factor holds values that are not finite")


def _largest(matrix: Tensor, dim: int) -> Tensor:
    """The largest magnitude along a dimension, float64."""
    return torch.maximum(matrix.amax(dim), -matrix.amin(dim)).double()


def _diagonal(gram: Tensor) -> Tensor:
    return gram.diagonal(dim1=-2, dim2=-1)


def _not_0(sizes: Tensor) -> Tensor:
    return torch.where(sizes > 0, sizes, 1.0)
