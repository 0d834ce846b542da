"""The mean in factors, its way into the weights: against whole matrices."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedgalore.maths import mean
from fedgalore.maths.mean import (
    apply_dense,
    apply_factors,
    as_term,
    as_terms,
    in_blocks,
    mean_of_factors,
    of_matrix,
    squared_norm_of_product,
)

D, K, BATCH = 6, 9, 2


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def sizes(right: Tensor) -> Tensor:
    """How much of the product each column of an orthonormal left factor carries."""
    return right.norm(dim=-1)


def assert_orthonormal(left: Tensor, tolerance: float = 1e-5) -> None:
    gram = left.mT.float() @ left.float()
    torch.testing.assert_close(gram, torch.eye(left.shape[-1]).expand_as(gram), atol=tolerance, rtol=0)


def assert_falling(values: Tensor) -> None:
    assert (values.diff(dim=-1) <= 1e-5 * values.max()).all()


def test_the_mean_of_factors_is_the_weighted_mean_of_the_products() -> None:
    ranks, weights = (1, 2, 1), (0.5, 0.2, 0.3)
    lefts = [drawn(BATCH, D, rank, seed=rank_index) for rank_index, rank in enumerate(ranks)]
    rights = [drawn(BATCH, rank, K, seed=9 + rank_index) for rank_index, rank in enumerate(ranks)]
    mean = mean_of_factors(lefts, rights, weights)
    expected = sum(w * left @ right for w, left, right in zip(weights, lefts, rights, strict=True))
    torch.testing.assert_close(mean.left @ mean.right, expected)
    assert (mean.left.shape, mean.right.shape) == ((BATCH, D, 4), (BATCH, 4, K))
    assert mean.left.dtype == mean.right.dtype == torch.float32
    assert_orthonormal(mean.left)
    assert_falling(sizes(mean.right))


def test_a_weight_for_each_pair_is_asked_for() -> None:
    with pytest.raises(ValueError, match="zip"):
        mean_of_factors([drawn(1, D, 2)] * 2, [drawn(1, 2, K)] * 2, [1.0])


def test_a_whole_matrix_is_sorted_by_what_its_columns_carry() -> None:
    change = drawn(BATCH, D, K, dtype=torch.float64)
    factors = of_matrix(change)
    torch.testing.assert_close(factors.left @ factors.right, change.float())
    assert_orthonormal(factors.left)
    torch.testing.assert_close(sizes(factors.right), torch.linalg.svdvals(change).float())
    head = factors.leading(2)
    assert torch.equal(head.left, factors.left[..., :2])
    assert torch.equal(head.right, factors.right[:, :2])


def test_the_norm_of_a_product_needs_no_product() -> None:
    left, right = drawn(BATCH, D, 3), drawn(BATCH, 3, K, seed=1)
    squared = squared_norm_of_product(left, right)
    assert squared.dtype == torch.float64
    torch.testing.assert_close(squared, (left.double() @ right.double()).square().sum((-2, -1)))
    sizes = left.double().square().sum(-2) * right.double().square().sum(-1)
    torch.testing.assert_close(squared_norm_of_product(left, right, 0.5), squared + 0.25 * sizes.sum(-1))


def test_the_norm_of_factors_that_cancel_is_right_and_of_what_float32_cannot_multiply_infinite() -> None:
    left, right = torch.tensor([[1e9, 1e9]]), torch.tensor([[1.0], [-1.0 - 2.0**-23]])
    assert float(squared_norm_of_product(left, right)) == pytest.approx((1e9 * 2.0**-23) ** 2, rel=1e-6)
    for entry in (torch.inf, torch.nan, 1e19):
        assert squared_norm_of_product(torch.tensor([[entry, 0.0]]), torch.zeros(2, 1)) == torch.inf
        assert squared_norm_of_product(torch.zeros(3, 2), torch.tensor([[entry], [0.0]])) == torch.inf


def test_terms_keep_their_order_and_a_weight_each() -> None:
    lefts, rights = [drawn(BATCH, D, 2), drawn(BATCH, D, 1, seed=1)], [drawn(BATCH, 2, K), drawn(BATCH, 1, K, seed=1)]
    terms = as_terms(lefts, rights, [0.25, 2.0]).times(2).terms
    assert [(term.left, term.right, term.weight) for term in terms] == [
        (lefts[0], rights[0], 0.5),
        (lefts[1], rights[1], 4.0),
    ]
    whole = drawn(BATCH, D, K, dtype=torch.float64)
    (term,) = as_term(whole).terms
    torch.testing.assert_close(term.left @ term.right, whole.float())


def test_a_step_is_the_decayed_weight_plus_the_change() -> None:
    weight, left, right = drawn(D, K), drawn(D, 2, seed=1), drawn(2, K, seed=2)
    torch.testing.assert_close(apply_factors(weight, 0.5, left, right), 0.5 * weight + left @ right)
    torch.testing.assert_close(apply_factors(weight.mT.contiguous().mT, 0.5, left, right), 0.5 * weight + left @ right)
    assert torch.equal(apply_dense(weight, 0.5, weight.square()), weight * 0.5 + weight.square())


def test_a_step_has_the_same_bits_however_its_parts_lie_in_memory() -> None:
    weight, left, right = drawn(40, 50), drawn(40, 7, seed=1), drawn(7, 50, seed=2)
    turned = [part.mT.contiguous().mT for part in (weight, left, right)]
    assert torch.equal(apply_factors(weight, 0.99, left, right), apply_factors(turned[0], 0.99, *turned[1:]))


@pytest.mark.parametrize("shape", [(), (0,), (7,), (5, 11), (2, 3, 4)])
def test_elements_combined_in_blocks_have_the_bits_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(mean, "BLOCK", 4)
    clients = [drawn(*(shape or (1,)), seed=seed).reshape(shape) for seed in range(3)]
    clients[1] = clients[1].mT.contiguous().mT if clients[1].dim() > 1 else clients[1]

    def combine(tensors: list[Tensor]) -> Tensor:
        return (0.3 * tensors[0].double() + torch.stack(tensors).double().sort(dim=0).values[1]) / 3

    lengths: list[int] = []

    def noted(tensors: list[Tensor]) -> Tensor:
        lengths.append(tensors[0].numel())
        return combine(tensors)

    assert torch.equal(in_blocks(clients, noted), combine(clients).float())
    assert max(lengths) <= 4 * torch.get_num_threads()
