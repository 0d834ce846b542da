"""Range finder against the exact SVD, and what it does where there is nothing to find."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgalore.maths.projector import leading_left_vectors, orient, project, project_back, range_basis, sampled_basis


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def matrix_with(values: torch.Tensor, d: int, k: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A float32 `(d, k)` matrix with these singular values, and its left singular vectors."""
    generator = seeded(seed)
    left, _ = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))
    right, _ = torch.linalg.qr(torch.randn(k, d, generator=generator, dtype=torch.float64))
    return (left * values.double() @ right.T).float(), left


def assert_orthonormal(basis: torch.Tensor) -> None:
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (5, 5)])
def test_orient_gives_a_view_with_the_smaller_side_first(shape):
    weight = torch.randn(shape)
    oriented = orient(weight)
    assert oriented.shape == (min(shape), max(shape))
    oriented.zero_()
    assert weight.abs().max() == 0


@settings(max_examples=25, deadline=None)
@given(
    d=st.integers(2, 40),
    more=st.integers(0, 40),
    share=st.floats(0.05, 0.95),
    decay=st.floats(0.1, 0.85),
    scale=st.sampled_from([1e-12, 1.0, 1e6]),
    seed=st.integers(0, 2**32),
)
def test_range_basis_keeps_what_the_best_subspace_keeps(d, more, share, decay, scale, seed):
    rank = max(1, int(share * d))
    gradient, left = matrix_with(scale * decay ** torch.arange(d), d, d + more, seed)
    basis = range_basis(gradient, rank, seeded(seed))
    assert basis.shape == (d, rank)
    assert basis.dtype == torch.float32
    assert_orthonormal(basis)
    kept = torch.linalg.matrix_norm(project(basis, gradient).double())
    best = torch.linalg.matrix_norm(left[:, :rank].T @ gradient.double())
    assert kept >= (1 - 1e-3) * best  # two power iterations on a slowly falling spectrum


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_range_basis_spans_the_leading_singular_vectors_where_they_stand_out(rank):
    values = torch.cat([torch.linspace(10, 5, rank), 0.5 * 0.9 ** torch.arange(32 - rank)])
    gradient, left = matrix_with(values, 32, 96, seed=rank)
    cosines = torch.linalg.svdvals(left[:, :rank].T.float() @ range_basis(gradient, rank, seeded()))
    assert cosines.min() > 1 - 1e-5


def test_range_basis_is_seeded():
    gradient = torch.randn(20, 30, generator=seeded(1))
    first = range_basis(gradient, 4, seeded(7))
    assert torch.equal(first, range_basis(gradient, 4, seeded(7)))
    assert not torch.equal(first, range_basis(gradient, 4, seeded(8)))


@pytest.mark.parametrize("gradient", [torch.zeros(12, 20), torch.ones(12, 20), 1e-30 * torch.ones(12, 20)])
def test_range_basis_is_finite_and_orthonormal_where_the_gradient_has_no_such_rank(gradient):
    assert_orthonormal(range_basis(gradient, 5, seeded()))


def test_range_basis_at_full_rank_is_the_identity():
    assert torch.equal(range_basis(torch.randn(6, 9), 6, seeded()), torch.eye(6))


def test_leading_left_vectors_are_those_of_the_svd_in_every_item_of_a_batch():
    matrix = torch.randn(3, 2, 6, 15, generator=seeded(3), dtype=torch.float64)
    left, _, _ = torch.linalg.svd(matrix, full_matrices=False)
    vectors = leading_left_vectors(matrix, 4)
    torch.testing.assert_close((left[..., :4].mT @ vectors).abs(), torch.eye(4).double().expand(3, 2, 4, 4))


def test_projecting_back_a_projection_is_the_nearest_matrix_in_the_subspace():
    generator = seeded(5)
    gradient = torch.randn(8, 11, generator=generator)
    basis = range_basis(gradient, 3, generator)
    rest = gradient - project_back(basis, project(basis, gradient))
    torch.testing.assert_close(project(basis, rest), torch.zeros(3, 11), atol=1e-5, rtol=0)


def test_a_sampled_basis_holds_leading_singular_vectors_as_often_as_their_values_say():
    values = torch.tensor([8.0, 4.0, 2.0, 1.0, 1.0, 0.01, 0.01, 0.01])
    left, right = (torch.linalg.qr(torch.randn(size, 8, generator=seeded(3)))[0] for size in (12, 20))
    gradient = left @ values.diag() @ right.T
    drawn = torch.zeros(8)
    for seed in range(600):
        basis = sampled_basis(gradient, 1, 5, seeded(seed))
        assert_orthonormal(basis)
        drawn += (left.T @ basis)[:, 0].square().round()
    assert drawn.sum() == 600
    assert drawn[5:].sum() == 0  # outside the pool
    assert torch.allclose(drawn[:5] / 600, values[:5] / values[:5].sum(), atol=0.07)


def test_a_sampled_basis_is_seeded_and_in_the_smallest_pool_it_is_the_leading_basis():
    gradient = torch.randn(9, 14, generator=seeded(1))
    assert torch.equal(sampled_basis(gradient, 3, 2, seeded(5)), sampled_basis(gradient, 3, 2, seeded(5)))
    assert torch.equal(sampled_basis(gradient, 3, 1, seeded(5)), range_basis(gradient, 3, seeded(5)))
    assert torch.equal(sampled_basis(gradient, 9, 4, seeded(5)), torch.eye(9))


@pytest.mark.parametrize("rank", [2, 5, 8])
def test_a_sampled_basis_is_orthonormal_where_the_gradient_has_no_such_rank(rank):
    for gradient in (torch.zeros(9, 14), torch.ones(9, 14)):
        assert_orthonormal(sampled_basis(gradient, rank, 6, seeded()))
