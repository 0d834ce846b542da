"""The leading part of a sum of products of thin factors, and what that leaves out, without forming the sum.

A mean of low-rank changes is `X = sum_i w_i A_i B_i`, with `A_i (B, d, q_i)` and `B_i (B, q_i, k)` of each client, and
what earlier rounds left out is one more term. The leading `B` is a batch of matrices of equal shape, the `q_i` are
small against `d` and `k`, and no tensor here is as large as `X`. ALGORITHM, "The leading part of a mean in factors".

    whole = ThinSum(terms)
    found = split(whole, rank)                  # its leading directions go down, rounded to l
    best = best_right(l, whole)                 # goes with them, rounded to r
    rest = remainder(whole, l, r, cap)          # what the next round adds

By a seeded range finder in float32 (Halko, Martinsson, Tropp 2011, algorithms 4.4 and 5.1): linear in the terms, and
all that is large is products of matrices. One code serves every device. The bits hang on the order of the terms, so
callers take clients in the order of their names; and, as of every matrix product, on the processor and the number of
threads.

Columns may differ in scale by all that float32 can hold: it is taken out before anything is multiplied.
"""

from __future__ import annotations

import copy
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from fedgalore.maths.mean import Factors, Term, Terms

OVERSAMPLING = 16
POWER_ITERATIONS = 1  # beside the start, which is as good as one
RIDGE = 1e-7  # of the largest entry of a Gram matrix: what float32 cannot tell from a column that depends on others
NOTHING = -1024  # as an exponent: the row of a column of zeros, however large, takes no digits of others
BLOCK = 1024  # columns that are float64 at a time


def split(whole: ThinSum, rank: int, seed: int = 0) -> Factors:
    """The leading `rank` directions of a sum; all of them where there are fewer.

    Args:
        rank: at least 1; cut to the least of `d`, `k` and the terms' columns together.
        seed: of the range finder's test matrix, which is drawn on the CPU.

    Returns:
        `left (B, d, q)`: orthonormal columns, those that carry most first; where the terms span fewer directions, the
        last carry nothing but rounding. `right (B, q, k)`: what they carry. Both float32.

    Raises:
        ValueError: the rank is below 1.
        OverflowError: what they carry exceeds the range of float32.
    """
    if rank < 1:
        raise ValueError(f"rank: {rank} is below 1; keep one direction at least")
    most = min(whole.d, whole.k, whole.columns())
    span = _span(whole, min(rank + OVERSAMPLING, most), seed)
    core = whole.seen_from(span)
    _, vectors = torch.linalg.eigh(_gram(core))
    leading = vectors.flip(-1)[..., : min(rank, most)].float()
    return Factors(span @ leading, whole.at_its_size(leading.mT @ core))


def leading_basis(change: Factors | Terms, rank: int, seed: int = 0) -> Tensor:
    """The leading `rank` left singular vectors of a change, `(B, d, rank)`, with any others where it has fewer."""
    whole = change if isinstance(change, Terms) else Terms([Term(change.left, change.right)])
    basis = split(ThinSum(whole), 2 * rank, seed).left[..., :rank]  # the first are found best
    basis = torch.nn.functional.pad(basis, (0, rank - basis.shape[-1]))
    missing = ~basis.any(-2)
    if not bool(missing.any()):
        return basis
    complete, _ = torch.linalg.qr(basis, mode="complete")  # its first columns span the first of the basis, up to sign
    return torch.where(missing[..., None, :], complete[..., :rank], basis)


def best_right(sent_left: Tensor, whole: ThinSum) -> Tensor:
    """`(l^T l)^-1 l^T X (B, q, k)` float32: what goes best with `l (B, d, q)`, which rounding left not orthonormal.

    A column of zeros gets a row of zeros.

    Raises:
        OverflowError: it exceeds the range of float32.
    """
    gram = _gram(sent_left.mT)
    ridge = (RIDGE * gram.diagonal(dim1=-2, dim2=-1).amax(-1)).clamp_min(torch.finfo(gram.dtype).tiny)
    gram.diagonal(dim1=-2, dim2=-1).add_(ridge[..., None])
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
    return whole.at_its_size(whole.seen_from(sent_left @ inverse.float()))


def remainder(whole: ThinSum, sent_left: Tensor, sent_right: Tensor, cap: int, seed: int = 0) -> Factors:
    """The leading `cap` directions of `X - l r` for `l (B, d, q)` and `r (B, q, k)`, as the receivers decode them.

    Raises:
        OverflowError: it exceeds the range of float32.
    """
    return split(whole.without(sent_left, sent_right), cap, seed)


class ThinSum:
    """A sum of terms that stand side by side, `X = L R`, for `L (B, d, q)` and `R (B, q, k)` float32.

    Inside, it is divided by the size of the largest that it adds up, so that float32 holds what is made of it, and the
    columns of `L` are scaled to entries of about 1, so that each row of `R` is as large as what it adds. All scales are
    powers of two, which round nothing.

    Args:
        whole: at least one term, of any floating type, on one device.

    Raises:
        ValueError: the terms' shapes do not fit.
        FloatingPointError: a factor is not finite.
    """

    def __init__(self, whole: Terms) -> None:
        shapes = [(tuple(term.left.shape), tuple(term.right.shape)) for term in whole.terms]
        fits = all(len(left) == len(right) == 3 and left[::2] == (right[0], right[1]) for left, right in shapes)
        ends = {(left[0], left[1], right[-1]) for left, right in shapes if left and right}
        if not fits or len(ends) != 1:
            raise ValueError(f"terms: expected shapes (B, d, q) and (B, q, k) with one B, d and k, got {shapes}")
        _, self.d, self.k = next(iter(ends))
        sizes = [_Sizes.of(term) for term in whole.terms]
        loudest = torch.cat([each.added for each in sizes], -1).amax(-1)
        if not bool(torch.isfinite(loudest).all()):
            raise FloatingPointError("a factor holds values that are not finite")
        self._exponent = _exponent(loudest)[:, None, None]
        self._blocks = [_side_by_side(whole, sizes, self._exponent)]
        self._start: _Start | None = None

    def without(self, left: Tensor, right: Tensor) -> ThinSum:
        """`X - left right`, which copies nothing of `X`."""
        less = copy.copy(self)
        right = -self._divided(right.float())
        less._blocks = [*self._blocks, (left.float(), right)]
        if self._start is not None:
            rows, columns = self._start
            less._start = _Start(rows, columns + left.float() @ (right @ rows.mT))
        return less

    def columns(self) -> int:
        """Of all terms together."""
        return sum(left.shape[-1] for left, _ in self._blocks)

    def seen_at_random(self, width: int, seed: int) -> Tensor:
        """`X Y^T (B, d, width)` of rows `Y` drawn from those that the terms add.

        Where the columns of `L` are orthogonal it is `X X^T` of a random matrix, so as good as a power iteration. What
        is left of a sum is seen by the same rows: they are drawn once.
        """
        if self._start is None or self._start.rows.shape[-2] != width:
            rights = [right for _, right in self._blocks]
            mix = _drawn(width, self.columns(), seed).to(rights[0].device).expand(len(rights[0]), -1, -1)
            rows = _sum(list(zip(mix.split([right.shape[-2] for right in rights], dim=-1), rights, strict=True)))
            self._start = _Start(rows, self.forth(rows))
        return self._start.columns

    def forth(self, rows: Tensor) -> Tensor:
        """`X Y^T (B, d, w)` of `Y (B, w, k)`."""
        return _sum([(left, right @ rows.mT) for left, right in self._blocks])

    def seen_from(self, columns: Tensor) -> Tensor:
        """`Y^T X (B, w, k)` of `Y (B, d, w)`."""
        return _sum([(columns.mT @ left, right) for left, right in self._blocks])

    def at_its_size(self, part: Tensor) -> Tensor:
        """A part of the sum, no longer divided.

        Raises:
            OverflowError: it exceeds the range of float32.
        """
        part = _times_power(part, self._exponent)
        if not bool(torch.isfinite(_largest(part.flatten(), 0))):
            raise OverflowError("the product of the factors exceeds the range of float32")
        return part

    def _divided(self, part: Tensor) -> Tensor:
        return _times_power(part, -self._exponent)


class _Start(NamedTuple):
    """`rows Y (B, w, k)`, and `columns X Y^T (B, d, w)` of a sum."""

    rows: Tensor
    columns: Tensor


class _Sizes(NamedTuple):
    """Of a term: the largest entries of its `columns` and `rows`, and the largest that each `added`, `(B, q)` float64.

    What a column adds is not finite where a factor is not.
    """

    columns: Tensor
    added: Tensor

    @classmethod
    def of(cls, term: Term) -> _Sizes:
        columns, rows = _largest(term.left.mT, -1).double(), _largest(term.right, -1).double()
        return cls(columns, torch.where(columns.isfinite(), columns * rows * abs(term.weight), torch.nan))


def _side_by_side(whole: Terms, sizes: list[_Sizes], exponent: Tensor) -> tuple[Tensor, Tensor]:
    """`L (B, d, q)` with entries of about 1, and `R (B, q, k)`, weighed and divided by `2^exponent`."""
    counts = [term.right.shape[-2] for term in whole.terms]
    (batch, d, _), device = whole.terms[0].left.shape, whole.terms[0].left.device
    rows = torch.empty(batch, sum(counts), d, device=device)  # of `L^T`
    right = torch.empty(batch, sum(counts), whole.terms[0].right.shape[-1], device=device)
    places = zip(whole.terms, sizes, rows.split(counts, -2), right.split(counts, -2), strict=True)
    for term, size, some_rows, some_right in places:
        columns = _exponent(size.columns)[..., None]
        _times_power(term.left.mT.float(), -columns, some_rows)
        lifted = torch.where(size.columns[..., None] > 0, columns - exponent, NOTHING)
        _times_power(term.right.float(), lifted, some_right, term.weight)
    return rows.mT, right


@lru_cache(maxsize=8)
def _drawn(width: int, count: int, seed: int) -> Tensor:
    """The same random numbers for every group of a round, `(width, count)`; not to be changed."""
    return torch.randn(width, count, generator=torch.Generator("cpu").manual_seed(seed), device="cpu")


def _exponent(size: Tensor) -> Tensor:
    """The power of two that comes next; 0 for 0."""
    return torch.frexp(torch.where(size > 0, size, 1.0)).exponent


def _times_power(tensor: Tensor, exponent: Tensor, out: Tensor | None = None, weight: float = 1.0) -> Tensor:
    """`weight 2^exponent` times a tensor, float32; in two steps where float32 cannot hold the power."""
    half = exponent // 2
    first, second = torch.exp2(half.float()), weight * torch.exp2((exponent - half).float())
    if bool((exponent.abs() < 120).all()):
        return torch.mul(tensor, first * second, out=out)
    return torch.mul(tensor, first, out=out).mul_(second)


def _largest(tensor: Tensor, dim: int) -> Tensor:
    """In absolute value; NaN where there is one."""
    return torch.maximum(tensor.amax(dim), -tensor.amin(dim))


def _sum(products: list[tuple[Tensor, Tensor]]) -> Tensor:
    (first, second), *others = products
    total = first @ second
    for left, right in others:
        total.baddbmm_(left, right)
    return total


def _span(whole: ThinSum, width: int, seed: int) -> Tensor:
    """An orthonormal basis `(B, d, width)` of what is loudest in a sum."""
    span, _ = torch.linalg.qr(whole.seen_at_random(width, seed))
    for _ in range(POWER_ITERATIONS):
        span, _ = torch.linalg.qr(whole.forth(whole.seen_from(span)))
    return span


def _gram(rows: Tensor) -> Tensor:
    """`X X^T` in float64, for `X (B, w, n)`; some columns at a time, so that what is float64 stays small."""
    gram = rows.new_zeros(*rows.shape[:-1], rows.shape[-2], dtype=torch.float64)
    for part in rows.split(BLOCK, dim=-1):
        wide = part.double()
        gram += wide @ wide.mT
    return gram
