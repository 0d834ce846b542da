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

Columns may differ in scale by all that float32 can hold: the scale of what each adds to the sum is taken out before
anything is squared.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor

from fedgalore.maths.mean import Factors, Term, Terms

OVERSAMPLING = 16
POWER_ITERATIONS = 1  # beside the start, which is as good as one
DEPENDENT = 1e-14  # eigenvalues of a Gram matrix below this share of the largest are rounding
LEVEL = 1e-12  # likewise, of columns in float32
BLOCK = 1024  # columns that are float64 at a time


def split(whole: ThinSum, rank: int, seed: int = 0) -> Factors:
    """The leading `rank` directions of a sum; all of them where there are fewer.

    Args:
        rank: at least 1; cut to the least of `d`, `k` and the terms' columns together.
        seed: of the range finder's test matrix, which is drawn on the CPU.

    Returns:
        `left (B, d, q)`: orthonormal columns, those that carry most first; columns of zeros where the terms span fewer
        directions. `right (B, q, k)`: what they carry. Both float32.

    Raises:
        ValueError: the rank is below 1.
        OverflowError: what they carry exceeds the range of float32.
    """
    if rank < 1:
        raise ValueError(f"rank: {rank} is below 1; keep one direction at least")
    most = min(whole.d, whole.k, whole.columns())
    span = _span(whole, min(rank + OVERSAMPLING, most), seed)
    core = whole.seen_from(span)
    order = _leading(_gram(core), span.square().sum(-2) > 0.5, min(rank, most))
    return Factors(_mixed(span, order), whole.at_its_size(order.mT.float() @ core))


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
    """`(l^T l)^+ l^T X (B, q, k)` float32: what goes best with `l (B, d, q)`, which rounding left not orthonormal.

    A column of zeros gets a row of zeros.

    Raises:
        OverflowError: it exceeds the range of float32.
    """
    root = _whitening(_gram(sent_left.mT))
    return whole.at_its_size(whole.seen_from(_mixed(sent_left, root @ root.mT)))


def remainder(whole: ThinSum, sent_left: Tensor, sent_right: Tensor, cap: int, seed: int = 0) -> Factors:
    """The leading `cap` directions of `X - l r` for `l (B, d, q)` and `r (B, q, k)`, as the receivers decode them.

    Raises:
        OverflowError: it exceeds the range of float32.
    """
    return split(whole.without(sent_left, sent_right), cap, seed)


class ThinSum:
    """A sum of terms that stand side by side: `X = L diag(w) R`, for `L (B, d, q)` and `R (B, q, k)` float32.

    Inside, it is divided by the size of the largest that it adds up, so that float32 holds what is made of it.

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
        left = _together([term.left.mT for term in whole.terms]).mT
        right = _together([term.right for term in whole.terms])
        counts = torch.tensor([term.left.shape[-1] for term in whole.terms])
        weights = torch.tensor([term.weight for term in whole.terms], dtype=torch.float64).repeat_interleave(counts)
        self._blocks = [_Block.of(left, right, weights.to(left.device))]
        loudest = self._blocks[0].sizes.amax(-1)
        if not bool(torch.isfinite(loudest).all()):
            raise FloatingPointError("a factor holds values that are not finite")
        self._exponent = torch.frexp(torch.where(loudest > 0, loudest, 1.0)).exponent[:, None, None]

    def without(self, left: Tensor, right: Tensor) -> ThinSum:
        """`X - left right`, which copies nothing."""
        less = copy.copy(self)
        less._blocks = [*self._blocks, _Block.of(left.float(), right.float(), left.new_tensor([-1.0]).double())]
        return less

    def columns(self) -> int:
        """Of all terms together."""
        return sum(block.left.shape[-1] for block in self._blocks)

    def seen_at_random(self, width: int, seed: int) -> Tensor:
        """`X Y^T (B, d, width)` of rows `Y` drawn from those that the terms add, each by what its column weighs.

        Where the columns of `L` are orthogonal it is `X X^T` of a random matrix, so as good as a power iteration.
        """
        device = self._blocks[0].left.device
        rows = []
        generator = torch.Generator("cpu").manual_seed(seed)
        for block in self._blocks:
            mix = torch.randn(width, block.left.shape[-1], generator=generator, device="cpu").to(device)
            weighed = (block.peaks * torch.exp2(-self._exponent[..., 0].double())).float()
            rows.append((mix * weighed[..., None, :], block.right))
        return self.forth(_sum(rows))

    def forth(self, rows: Tensor) -> Tensor:
        """`X Y^T (B, d, w)` of `Y (B, w, k)`."""
        return _sum([(block.left, self._thin(block.right @ rows.mT, block.weights[:, None])) for block in self._blocks])

    def seen_from(self, columns: Tensor) -> Tensor:
        """`Y^T X (B, w, k)` of `Y (B, d, w)`."""
        return _sum([(self._thin(columns.mT @ block.left, block.weights), block.right) for block in self._blocks])

    def at_its_size(self, part: Tensor) -> Tensor:
        """A part of the sum, no longer divided.

        Raises:
            OverflowError: it exceeds the range of float32.
        """
        for step in self._steps:
            part = part * torch.exp2(step)
        if not bool(torch.isfinite(_largest(part.flatten(), 0))):
            raise OverflowError("the product of the factors exceeds the range of float32")
        return part

    def _thin(self, product: Tensor, weights: Tensor) -> Tensor:
        first, second = self._steps
        return product.mul_(torch.exp2(-first) * weights).mul_(torch.exp2(-second))

    @property
    def _steps(self) -> tuple[Tensor, Tensor]:
        """Exponents of two, which round nothing; two of them, as float32 may not hold the size."""
        half = self._exponent // 2
        return half.float(), (self._exponent - half).float()


class _Block(NamedTuple):
    """Terms side by side, `L diag(w) R`, with `weights (q,)` float32.

    `peaks (B, q)`: the largest entries of the columns of `L diag(w)`; `sizes (B, q)`: the largest that each adds, not
    finite where a factor is not; both float64.
    """

    left: Tensor
    right: Tensor
    weights: Tensor
    peaks: Tensor
    sizes: Tensor

    @classmethod
    def of(cls, left: Tensor, right: Tensor, weights: Tensor) -> _Block:
        columns, rows = (_largest(each, dim).double() for each, dim in ((left, -2), (right, -1)))
        peaks = columns * weights.abs()
        return cls(left, right, weights.float(), peaks, torch.where(columns.isfinite(), peaks * rows, torch.nan))


def _together(rows: list[Tensor]) -> Tensor:
    """Batches of rows, `(B, q_i, n)`, under each other; float32."""
    first, *others = rows
    return torch.cat([each.float() for each in rows], dim=-2) if others else first.float()


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
    """An orthonormal basis `(B, d, width)` of what is loudest in a sum; columns of zeros where it has less."""
    columns = whole.seen_at_random(width, seed)
    for _ in range(POWER_ITERATIONS):
        columns = whole.forth(whole.seen_from(_levelled(columns)))
    once = _mixed(columns, _whitening(_gram(columns.mT)))
    gram = _gram(once.mT)  # what is weak is not quite orthogonal yet
    return _mixed(once, 1.5 * torch.eye(width, dtype=gram.dtype, device=gram.device) - 0.5 * gram)


def _levelled(columns: Tensor) -> Tensor:
    """The same span by columns of like size, by a shifted Cholesky factor: what a power iteration needs, and cheap."""
    gram = _gram(columns.mT)
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    sizes = diagonal.amax(-1, keepdim=True)
    shift = LEVEL * torch.where(sizes > 0, sizes, 1.0)
    factor = torch.linalg.cholesky(gram + torch.diag_embed(shift.expand(diagonal.shape)))
    return torch.linalg.solve_triangular(factor.mT, columns.double(), upper=True, left=False).float()


def _whitening(gram: Tensor) -> Tensor:
    """`F L^(-1/2)` of `X^T X = F L F^T`: `X` times it is orthonormal, with columns of zeros where `L` is rounding."""
    values, vectors = torch.linalg.eigh(gram)
    keeps = values > DEPENDENT * values[..., -1:]
    return vectors / torch.where(keeps, values, torch.inf).sqrt()[..., None, :]


def _leading(gram: Tensor, keeps: Tensor, count: int) -> Tensor:
    """The `count` leading eigenvectors `(B, w, count)` of a Gram matrix whose rows outside `keeps` are zeros.

    Those outside come last, as zeros: below all others, whose eigenvalues are at least 0, they mix with none of them.
    """
    dropped = torch.diag_embed((~keeps).to(gram.dtype))
    sizes = gram.diagonal(dim1=-2, dim2=-1).amax(-1)
    values, vectors = torch.linalg.eigh(gram / torch.where(sizes > 0, sizes, 1.0)[..., None, None] - dropped)
    return (vectors * (values > -0.5)[..., None, :]).flip(-1)[..., :count]


def _gram(rows: Tensor) -> Tensor:
    """`X X^T` in float64, for `X (B, w, n)`; some columns at a time, so that what is float64 stays small."""
    gram = rows.new_zeros(*rows.shape[:-1], rows.shape[-2], dtype=torch.float64)
    for part in rows.split(BLOCK, dim=-1):
        wide = part.double()
        gram += wide @ wide.mT
    return gram


def _mixed(columns: Tensor, mix: Tensor) -> Tensor:
    """`X M` in float64, as float32."""
    return (columns.double() @ mix).float()
