"""The split of a product of factors: the dense SVD as oracle, odd factors, and no tensor of the product's size."""

from itertools import accumulate

import pytest
import torch
from torch import Tensor
from torch.autograd.profiler import profile

from fedgalore.maths.factors import ThinSum, best_right, remainder, split
from fedgalore.maths.mean import Term, Terms


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planted(d: int, k: int, values: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Factors `(1, d, n)` and `(1, n, k)` of a matrix with these singular values, mixed by a matrix between them."""
    n = len(values)
    rows = torch.linalg.qr(normal(k, n, seed=seed))[0].T
    mixing = normal(n, n, seed=seed + 1) + 3 * torch.eye(n)
    left = torch.linalg.qr(normal(d, n, seed=seed + 2))[0] * values
    return (left @ mixing)[None], torch.linalg.solve(mixing, rows)[None]


def sum_of(left: Tensor, right: Tensor) -> ThinSum:
    """The product as a sum of two terms, if it has two columns, with a weight each."""
    half = left.shape[-1] // 2
    if half == 0:
        return ThinSum(Terms([Term(left, right)]))
    return ThinSum(Terms([Term(left[..., :half], right[:, :half]), Term(left[..., half:], 2 * right[:, half:], 0.5)]))


def dense(left: Tensor, right: Tensor) -> Tensor:
    return left.double() @ right.double()


def best_error(matrix: Tensor, rank: int) -> float:
    """Of the best approximation of `(1, d, k)` at this rank."""
    return float(torch.linalg.svdvals(matrix)[:, rank:].norm())


def assert_orthonormal_or_0(columns: Tensor) -> None:
    gram = columns.double().mT @ columns.double()
    kept = gram.diagonal(dim1=-2, dim2=-1) > 0.5
    torch.testing.assert_close(gram, torch.diag_embed(kept.double()), atol=2e-6, rtol=0)


ODD = {
    "one client": (normal(1, 30, 4), normal(1, 4, 50)),
    "the same client three times": (normal(1, 30, 4).repeat(1, 1, 3), normal(1, 4, 50).repeat(1, 3, 1)),
    "clients that cancel each other": (
        torch.cat([normal(1, 30, 4)] * 2, -1),
        torch.cat([normal(1, 4, 50), -normal(1, 4, 50)], -2),
    ),
    "more columns than rows": (normal(1, 12, 40), normal(1, 40, 50)),
    "more columns than either side": (normal(1, 12, 40), normal(1, 40, 20)),
    "tall": (normal(1, 50, 10), normal(1, 10, 12)),
    "of rank 2": (normal(1, 30, 2) @ normal(1, 2, 9), normal(1, 9, 50)),
    "zeros on the left": (torch.zeros(1, 30, 5), normal(1, 5, 50)),
    "zeros on the right": (normal(1, 30, 5), torch.zeros(1, 5, 50)),
    "a column of zeros": (normal(1, 30, 5) * torch.tensor([1.0, 0, 1, 1, 1]), normal(1, 5, 50)),
    "half precision": (normal(1, 30, 5).half(), normal(1, 5, 50).half()),
}


@pytest.mark.parametrize("name", ODD)
def test_the_split_is_as_good_as_the_best_there_is(name):
    left, right = ODD[name]
    found = split(sum_of(left, right), 6)
    assert found.left.shape == (1, left.shape[1], min(6, *left.shape[1:], right.shape[2]))
    assert_orthonormal_or_0(found.left)
    whole = dense(left, right)
    size = float(left.float().norm() * right.float().norm())
    assert float((whole - dense(found.left, found.right)).norm()) <= best_error(whole, 6) + 1e-6 * size
    sent = best_right(found.left, sum_of(left, right))
    torch.testing.assert_close(sent, found.right, atol=1e-6 * size, rtol=0)
    rest = remainder(sum_of(left, right), found.left, sent, 3)
    both = dense(found.left, sent) + dense(rest.left, rest.right)
    assert float((whole - both).norm()) <= best_error(whole, 9) + 1e-6 * size


@pytest.mark.parametrize(("d", "k"), [(40, 90), (90, 40)])
def test_directions_are_those_of_the_dense_svd(d, k):
    left, right = planted(d, k, torch.logspace(0, -4, 24))
    expected = torch.linalg.svd(dense(left, right)).U[0, :, :8]
    found = split(sum_of(left, right), 8).left[0].double()
    overlap = (expected * found).sum(0).abs()
    torch.testing.assert_close(overlap, torch.ones(8).double(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("small", [1e-20, 1e-15, 1.0])
@pytest.mark.parametrize("large", [1.0, 1e15, 1e20])
def test_columns_of_any_size_count_by_what_they_add(small, large):
    """Three clients whose factors are scaled against each other: their changes are all of one size."""
    left, right = planted(40, 60, torch.logspace(0, -2, 12))
    scale = torch.tensor([small, large, 1.0]).repeat_interleave(4)
    plain, scaled = split(sum_of(left, right), 5), split(sum_of(left * scale, right / scale[:, None]), 5)
    torch.testing.assert_close((plain.left.mT @ scaled.left).abs(), torch.eye(5)[None], atol=1e-5, rtol=0)
    sent = best_right(scaled.left, sum_of(left * scale, right / scale[:, None]))
    torch.testing.assert_close(
        dense(scaled.left, sent), dense(left, right), atol=best_error(dense(left, right), 5), rtol=0
    )


@pytest.mark.parametrize(("first", "second"), [(1e-20, 1e-12), (1e20, 1e12), (1e-20, 1e20)])
def test_a_product_of_any_size_keeps_its_digits(first, second):
    left, right = planted(40, 60, torch.logspace(0, -2, 12))
    plain, scaled = split(sum_of(left, right), 5), split(sum_of(left * first, right * second), 5)
    expected = best_right(plain.left, sum_of(left, right))
    found = best_right(scaled.left, sum_of(left * first, right * second))
    signs = (plain.left.mT @ scaled.left).diagonal(dim1=-2, dim2=-1)[..., None]
    torch.testing.assert_close(found / (first * second), signs * expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("large", [1.0, 1e15, 1e38])
def test_the_row_of_a_column_of_zeros_counts_for_nothing(large):
    left, right = planted(40, 60, torch.logspace(-8, -10, 12))
    silent = Term(torch.zeros(1, 40, 4), torch.full((1, 4, 60), large))
    plain, beside = (ThinSum(Terms([Term(left, right), *more])) for more in ([], [silent]))
    best = best_error(dense(left, right), 5)
    for whole in (plain, beside):
        found = split(whole, 5)
        left_out = dense(left, right) - dense(found.left, best_right(found.left, whole))
        assert float(left_out.norm()) <= (1 + 1e-4) * best


def test_what_float32_cannot_hold_is_told():
    left, right = normal(1, 20, 3) * 1e25, normal(1, 3, 30) * 1e25
    columns = torch.linalg.qr(left)[0][..., :2]
    for asked in (
        lambda: split(sum_of(left, right), 2),
        lambda: best_right(columns, sum_of(left, right)),
        lambda: remainder(sum_of(left, right), columns, torch.zeros(1, 2, 30), 2),
    ):
        with pytest.raises(OverflowError, match="exceeds the range of float32"):
            asked()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_factors_that_are_not_finite_are_refused(bad):
    left, right = normal(1, 20, 3), normal(1, 3, 30)
    for factor in (left, right):
        broken = factor.clone()
        broken[0, 1, 1] = bad
        with pytest.raises(FloatingPointError, match="not finite"):
            split(sum_of(*(broken if each is factor else each for each in (left, right))), 2)


def test_shapes_and_ranks_that_do_not_fit_are_refused():
    for terms in (
        [Term(torch.ones(2, 3), torch.ones(3, 2))],
        [Term(torch.ones(1, 5, 3), torch.ones(1, 2, 5))],
        [Term(torch.ones(1, 5, 3), torch.ones(1, 3, 5)), Term(torch.ones(1, 4, 3), torch.ones(1, 3, 5))],
    ):
        with pytest.raises(ValueError, match=r"\(B, d, q\) and \(B, q, k\) with one B, d and k, got \[\("):
            ThinSum(Terms(terms))
    with pytest.raises(ValueError, match="rank: 0 is below 1"):
        split(sum_of(torch.ones(1, 5, 3), torch.ones(1, 3, 5)), 0)


def rounded(matrix: Tensor, digits: int) -> Tensor:
    """As a code of few bits does it, roughly: equal steps up to the largest entry."""
    step = matrix.abs().amax() / digits
    return (matrix / step).round() * step


def test_a_cut_solves_for_the_right_factor_and_keeps_the_rest():
    left, right = planted(40, 90, torch.logspace(0, -1.5, 32))
    whole = dense(left, right)
    found = split(sum_of(left, right), 10)
    sent_left = rounded(found.left, 7)
    best = best_right(sent_left, sum_of(left, right))
    solved = torch.linalg.lstsq(sent_left[0].double(), whole[0]).solution
    torch.testing.assert_close(best[0].double(), solved, atol=2e-5, rtol=0)
    sent_right = rounded(best, 7)
    missing = whole - dense(sent_left, sent_right)
    seen = sum_of(left, right)
    split(seen, 10)  # the remainder goes on from the same random rows
    for rest in (remainder(each, sent_left, sent_right, 10) for each in (seen, sum_of(left, right))):
        assert_orthonormal_or_0(rest.left)
        strengths = rest.right.norm(dim=-1)[0]
        assert strengths.tolist() == sorted(strengths.tolist(), reverse=True)
        assert float((missing - dense(rest.left, rest.right)).norm()) <= 1.02 * best_error(missing, 10)


def test_a_column_of_zeros_is_sent_with_a_row_of_zeros():
    left, right = normal(1, 20, 3), normal(1, 3, 30)
    found = split(sum_of(left, right), 3)
    sent = found.left * torch.tensor([1.0, 0, 1])
    best = best_right(sent, sum_of(left, right))
    assert best[0, 1].abs().max() < 1e-6 < best[0, 0].abs().max()


def test_a_matrix_is_split_alike_alone_and_in_a_batch():
    pairs = [planted(20, 30, torch.logspace(0, -2, 9), seed) for seed in (1, 5, 9)]
    left, right = (torch.cat(each) for each in zip(*pairs, strict=True))
    together = split(sum_of(left, right), 4)
    for index in range(3):
        alone = split(sum_of(left[index : index + 1], right[index : index + 1]), 4)
        torch.testing.assert_close(alone.left[0], together.left[index], atol=1e-5, rtol=0)


def test_the_same_factors_give_the_same_bits_and_another_order_the_same_part():
    left, right = planted(30, 50, torch.logspace(0, -2, 12))
    first, again = split(sum_of(left, right), 5), split(sum_of(left, right), 5)
    assert torch.equal(first.left, again.left)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    other = split(sum_of(left[..., order], right[:, order]), 5)
    torch.testing.assert_close(first.left @ first.left.mT, other.left @ other.left.mT, atol=2e-5, rtol=0)


def test_no_tensor_is_as_large_as_the_product():
    d, k, n, q = 600, 1000, 24, 4
    left, right = normal(1, d, n), normal(1, n, k)
    with profile(profile_memory=True) as watched:
        found = split(sum_of(left, right), q)
        sent = best_right(found.left, sum_of(left, right))
        remainder(sum_of(left, right), found.left, sent, q)
    allocated = [event.nbytes() for event in watched.kineto_results.events() if event.name() == "[memory]"]
    assert right.nbytes <= max(allocated) < d * k  # bytes: a quarter of the product in float32
    assert max(accumulate(allocated)) < 2 * d * k
