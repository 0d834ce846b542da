"""The leading part of a sum of products of thin factors, and what that leaves out, without forming the sum.

A mean of low-rank changes is `X = sum_i w_i A_i B_i`, with `A_i (B, d, q_i)` and `B_i (B, q_i, k)` of each client, and
what earlier rounds left out is one more term. The leading `B` is a batch of matrices of equal shape, the `q_i` are
small against `d` and `k`, and no tensor here is as large as `X`. ALGORITHM, "The leading part of a mean in factors".

    found = split(terms, rank)                  # its leading directions go down, rounded to l
    best = best_right(l, terms)                 # goes with them, rounded to r
    rest = remainder(terms, l, r, cap)          # what the next round adds

By a seeded range finder in float32 (Halko, Martinsson, Tropp 2011, algorithms 4.4 and 5.1): linear in the terms, and
all that is large is products of matrices. One code serves every device. The bits hang on the order of the terms, so
callers take clients in the order of their names; and, as of every matrix product, on the processor and the number of
threads.

Columns may differ in scale by all that float32 can hold: the scale of what each adds to the sum is taken out before
anything is squared.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fedgalore.maths.mean import Factors, Term, Terms

OVERSAMPLING = 8
POWER_ITERATIONS = 2
DEPENDENT = 1e-14  # eigenvalues of a Gram matrix below this share of the largest are rounding
LEVEL = 1e-12  # likewise, of columns in float32
BLOCK = 1024  # columns that are float64 at a time


def split(whole: Terms, rank: int, seed: int = 0) -> Factors:
    """The leading `rank` directions of a sum; all of them where there are fewer.

    Args:
        whole: at least one term, of any floating type, taken as float32, on one device.
        rank: at least 1; cut to the least of `d`, `k` and the terms' columns together.
        seed: of the range finder's test matrix, which is drawn on the CPU.

    Returns:
        `left (B, d, q)`: orthonormal columns, those that carry most first; columns of zeros where the terms span fewer
        directions. `right (B, q, k)`: what they carry. Both float32.

    Raises:
        ValueError: the shapes do not fit, the rank is below 1, or a factor is not finite.
        OverflowError: what they carry exceeds the range of float32.
    """
    if rank < 1:
        raise ValueError(f"rank: {rank} is below 1; keep one direction at least")
    scaled = _Scaled(whole)
    most = min(scaled.d, scaled.k, sum(term.left.shape[-1] for term in whole.terms))
    span = _span(scaled, min(rank + OVERSAMPLING, most), seed)
    core = scaled.seen_from(span)
    order = _leading(_gram(core), span.square().sum(-2) > 0.5, min(rank, most))
    return Factors(_mixed(span, order), scaled.at_its_size(order.mT.float() @ core))


def leading_basis(change: Factors | Terms, rank: int, seed: int = 0) -> Tensor:
    """The leading `rank` left singular vectors of a change, `(B, d, rank)`, with any others where it has fewer."""
    whole = change if isinstance(change, Terms) else Terms([Term(change.left, change.right)])
    basis = split(whole, 2 * rank, seed).left[..., :rank]  # the first are found best
    basis = torch.nn.functional.pad(basis, (0, rank - basis.shape[-1]))
    missing = ~basis.any(-2)
    if not bool(missing.any()):
        return basis
    complete, _ = torch.linalg.qr(basis, mode="complete")  # its first columns span the first of the basis, up to sign
    return torch.where(missing[..., None, :], complete[..., :rank], basis)


def best_right(sent_left: Tensor, whole: Terms) -> Tensor:
    """`(l^T l)^+ l^T X (B, q, k)` float32: what goes best with `l (B, d, q)`, which rounding left not orthonormal.

    A column of zeros gets a row of zeros.

    Raises:
        OverflowError: it exceeds the range of float32.
    """
    root = _whitening(_gram(sent_left.mT))
    scaled = _Scaled(whole)
    return scaled.at_its_size(scaled.seen_from(_mixed(sent_left, root @ root.mT)))


def remainder(whole: Terms, sent_left: Tensor, sent_right: Tensor, cap: int, seed: int = 0) -> Factors:
    """The leading `cap` directions of `X - l r` for `l (B, d, q)` and `r (B, q, k)`, as the receivers decode them.

    Raises:
        OverflowError: it exceeds the range of float32.
    """
    return split(Terms([*whole.terms, Term(sent_left, sent_right, -1.0)]), cap, seed)


class _Scaled:
    """A sum divided by the size of the largest that it adds up, so that float32 holds what is made of it."""

    def __init__(self, whole: Terms) -> None:
        shapes = [(tuple(term.left.shape), tuple(term.right.shape)) for term in whole.terms]
        fits = all(len(left) == len(right) == 3 and left[::2] == (right[0], right[1]) for left, right in shapes)
        ends = {(left[0], left[1], right[-1]) for left, right in shapes if left and right}
        if not fits or len(ends) != 1:
            raise ValueError(f"terms: expected shapes (B, d, q) and (B, q, k) with one B, d and k, got {shapes}")
        _, self.d, self.k = next(iter(ends))
        self.terms = [Term(term.left.float(), term.right.float(), term.weight) for term in whole.terms]
        sizes = torch.stack([_size(term) for term in self.terms]).amax(0)
        if not bool(torch.isfinite(sizes).all()):
            raise ValueError("terms: a factor holds values that are not finite")
        exponent = torch.frexp(torch.where(sizes > 0, sizes, 1.0)).exponent[:, None, None]  # of two: rounds nothing
        # in two steps, as float32 may not hold the size
        self._steps = [torch.exp2(half.double()).float() for half in (exponent // 2, exponent - exponent // 2)]

    def forth(self, rows: Tensor) -> Tensor:
        """`X Y^T (B, d, w)` of `Y (B, w, k)`."""
        return _sum([(term.left, self._thin(term.right @ rows.mT, term.weight)) for term in self.terms])

    def seen_from(self, columns: Tensor) -> Tensor:
        """`Y^T X (B, w, k)` of `Y (B, d, w)`."""
        return _sum([(self._thin(columns.mT @ term.left, term.weight), term.right) for term in self.terms])

    def at_its_size(self, part: Tensor) -> Tensor:
        """A part of the sum, no longer divided."""
        for step in self._steps:
            part = part * step
        if not bool(torch.isfinite(part).all()):
            raise OverflowError("the product of the factors exceeds the range of float32")
        return part

    def _thin(self, product: Tensor, weight: float) -> Tensor:
        for step in self._steps:
            product /= step
        return product.mul_(weight) if weight != 1 else product


def _sum(products: list[tuple[Tensor, Tensor]]) -> Tensor:
    (first, second), *others = products
    total = first @ second
    for left, right in others:
        total.baddbmm_(left, right)
    return total


def _size(term: Term) -> Tensor:
    """The largest that a column adds `(B,)`, float64; not finite where a factor is not."""
    columns, rows = (
        torch.maximum(matrix.amax(dim), -matrix.amin(dim)).double()
        for matrix, dim in ((term.left, -2), (term.right, -1))
    )
    odd = ~torch.isfinite(columns + rows).all(-1)
    return torch.where(odd, torch.nan, abs(term.weight) * (columns * rows).amax(-1))


def _span(whole: _Scaled, width: int, seed: int) -> Tensor:
    """An orthonormal basis `(B, d, width)` of what is loudest in a sum; columns of zeros where it has less."""
    generator = torch.Generator("cpu").manual_seed(seed)
    device = whole.terms[0].right.device
    test_matrix = torch.randn(width, whole.k, generator=generator, dtype=torch.float32, device="cpu").to(device)
    columns = whole.forth(test_matrix.expand(len(whole.terms[0].right), -1, -1))
    for _ in range(POWER_ITERATIONS):
        columns = whole.forth(whole.seen_from(_levelled(columns)))
    once = _mixed(columns, _whitening(_gram(columns.mT)))
    gram = _gram(once.mT)  # what is weak is not quite orthogonal yet
    return _mixed(once, 1.5 * torch.eye(width, dtype=gram.dtype, device=device) - 0.5 * gram)


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
