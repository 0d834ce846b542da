"""Moving a second moment between bases, checked against sums written out and against sampled gradients."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedgalore.maths.second_moment import (
    SMALLEST,
    SecondMomentSketch,
    carry,
    floored,
    moved_to,
    of_equal_size,
    residual_of,
    transfer,
)


def orthonormal(d: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=torch.float64))[0]


def sketch_in(basis: torch.Tensor, k: int = 5, seed: int = 0) -> SecondMomentSketch:
    generator = torch.Generator().manual_seed(seed)
    second = torch.rand(basis.shape[1], k, generator=generator, dtype=torch.float64)
    return SecondMomentSketch(basis, second, torch.rand(1, k, generator=generator, dtype=torch.float64))


def test_transfer_is_the_sum_over_old_directions_plus_what_lies_outside():
    full = orthonormal(7, 0)
    sketch = sketch_in(full[:, :3])
    new = orthonormal(7, 1)[:, :4]
    moved = carry(sketch, new).numpy()
    old, second, residual = sketch.basis.numpy(), sketch.second_moment.numpy(), sketch.residual.numpy()
    for a in range(4):
        cosines = [float(np.dot(new.numpy()[:, a], old[:, b])) ** 2 for b in range(3)]
        for column in range(5):
            inside = sum(c * second[b, column] for b, c in enumerate(cosines))
            assert moved[a, column] == pytest.approx(inside + (1 - sum(cosines)) * residual[0, column])


def test_the_same_basis_keeps_the_second_moment():
    sketch = sketch_in(orthonormal(6, 2)[:, :3])
    torch.testing.assert_close(carry(sketch, sketch.basis), sketch.second_moment)


def test_signs_and_order_of_directions_do_not_matter():
    sketch = sketch_in(orthonormal(6, 2)[:, :3])
    turned = sketch.basis[:, [2, 0, 1]] * torch.tensor([1.0, -1.0, -1.0])
    torch.testing.assert_close(carry(sketch, turned), sketch.second_moment[[2, 0, 1]])


def test_directions_within_the_old_basis_mix_its_rows_alone():
    sketch = sketch_in(orthonormal(6, 3)[:, :4])
    turn = orthonormal(4, 4)[:, :2]
    expected = turn.square().T @ sketch.second_moment
    torch.testing.assert_close(carry(sketch, sketch.basis @ turn), expected)


def test_directions_outside_the_old_basis_get_the_residual():
    full = orthonormal(6, 5)
    sketch = sketch_in(full[:, :3])
    torch.testing.assert_close(carry(sketch, full[:, 3:]), sketch.residual.expand(3, 5))


def test_transfer_is_the_expectation_when_directions_are_uncorrelated():
    d, k, rank, draws = 6, 3, 2, 40_000
    full = orthonormal(d, 6)
    sketch = sketch_in(full[:, :rank], k)
    variances = torch.cat([sketch.second_moment, sketch.residual.expand(d - rank, k)])
    generator = torch.Generator().manual_seed(0)
    gradients = full @ (torch.randn(draws, d, k, generator=generator, dtype=torch.float64) * variances.sqrt())
    new = orthonormal(d, 7)[:, :rank]
    torch.testing.assert_close(carry(sketch, new), (new.T @ gradients).square().mean(0), rtol=0.05, atol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 12), st.data())
def test_a_second_moment_stays_valid_on_its_way_between_any_two_bases(d, data):
    rank = data.draw(st.integers(1, d))
    seed = data.draw(st.integers(0, 2**31))
    sketch = sketch_in(orthonormal(d, seed)[:, :rank].float().double(), seed=seed)
    moved = carry(sketch, orthonormal(d, seed + 1)[:, :rank])
    assert moved.min() >= 0
    assert moved.max() <= max(sketch.second_moment.max(), sketch.residual.max()) * (1 + 1e-6)


def test_rounding_in_a_basis_cannot_make_it_negative():
    overlap = (1 + 1e-3) * torch.eye(2)
    assert transfer(torch.zeros(2, 3), torch.ones(1, 3), overlap).min() == 0


@pytest.mark.parametrize("batch", [(), (2, 3)])
def test_residual_is_the_mean_square_over_a_basis_of_the_complement(batch):
    full = orthonormal(7, 8)
    gradient = torch.randn(*batch, 7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    residual = residual_of(gradient, full[:, :3].T @ gradient)
    torch.testing.assert_close(residual, (full[:, 3:].T @ gradient).square().mean(-2, keepdim=True))


def test_a_basis_of_every_direction_leaves_no_residual():
    gradient = torch.randn(4, 6)
    assert torch.equal(residual_of(gradient, orthonormal(4, 9).float().T @ gradient), torch.zeros(1, 6))


@pytest.mark.parametrize("rank", [2, 5, 9])
def test_a_sketch_in_another_basis_has_the_energy_that_it_had(rank):
    """Column by column: `sum V + (d - r) rho`; what the new basis does not hold is outside it."""
    old, new = orthonormal(9, 1)[:, :4], orthonormal(9, 2)[:, :rank]
    sketch = sketch_in(old)
    moved = moved_to(new, sketch)
    before = sketch.second_moment.sum(0) + (9 - 4) * sketch.residual[0]
    torch.testing.assert_close(moved.second_moment.sum(0) + (9 - rank) * moved.residual[0], before)
    torch.testing.assert_close(moved.energy, before[None])
    torch.testing.assert_close(moved.second_moment, carry(sketch, new))
    assert (moved.residual >= 0).all()


def test_floor_is_a_tenth_of_the_mean_and_never_zero():
    second, mean = torch.tensor([[0.5, 0.0, -1.0, 0.0]]), torch.tensor([[1.0, 1.0, 2.0, 0.0]])
    torch.testing.assert_close(floored(second, mean), torch.tensor([[0.5, 0.1, 0.2, SMALLEST]]))


def test_sketches_of_equal_size_have_the_median_energy_and_the_shapes_that_they_had():
    """A batch of two matrices; one client saw no gradient of the second."""
    basis = torch.stack([orthonormal(9, 1)[:, :4], orthonormal(9, 2)[:, :4]])
    generator = torch.Generator().manual_seed(3)
    sizes = torch.tensor([[1.0, 5.0], [1e-12, 0.0], [1e8, 2.0]])
    sketches = []
    for size in sizes:
        second, residual = (torch.rand(2, n, 6, generator=generator) * size[:, None, None] for n in (4, 1))
        sketches.append(SecondMomentSketch(basis, second, residual))
    energies = torch.stack([sketch.energy.sum((1, 2)) for sketch in sketches])
    for before, after, energy in zip(sketches, of_equal_size(sketches), energies, strict=True):
        wanted = torch.where(energy > 0, energies.median(0).values, energy)
        torch.testing.assert_close(after.energy.sum((1, 2)), wanted)
        torch.testing.assert_close(
            after.second_moment * energy[:, None, None], before.second_moment * wanted[:, None, None]
        )
        assert after.second_moment.dtype == torch.float32


@pytest.mark.parametrize("rank", [2, 3, 5])
def test_sketches_of_a_batch_move_as_each_of_them_does(rank):
    d, k = 5, 2
    generator = torch.Generator().manual_seed(0)

    def bases(columns):
        return torch.linalg.qr(torch.randn(2, d, d, generator=generator, dtype=torch.float64))[0][..., :columns]

    second, residual = (torch.rand(2, rows, k, generator=generator, dtype=torch.float64) for rows in (3, 1))
    sketch, new = SecondMomentSketch(bases(3), second, residual), bases(rank)
    moved = moved_to(new, sketch)
    torch.testing.assert_close(moved.energy, sketch.energy)
    assert moved.residual.shape == (2, 1, k)
    for i in range(2):
        alone = SecondMomentSketch(sketch.basis[i], sketch.second_moment[i], sketch.residual[i])
        torch.testing.assert_close(moved.second_moment[i], carry(alone, new[i]))
        torch.testing.assert_close(moved.residual[i], moved_to(new[i], alone).residual)
