"""Truncated decompositions against numpy's full one."""

from __future__ import annotations

import numpy as np
import pytest

from fedgalore.maths.low_rank import BLOCKS, OVERSAMPLING, low_rank

KRYLOV = 2 * BLOCKS * (6 + OVERSAMPLING)  # the smallest side whose rank 6 is not taken from a full decomposition


def falling(shape: tuple[int, int], power: float) -> np.ndarray:
    """A random matrix whose singular values fall as `1 / i ** power`."""
    chance = np.random.default_rng(3)
    d = min(shape)
    left, right = (np.linalg.qr(chance.standard_normal((side, d))).Q for side in shape)
    return (1e-3 * (left * np.arange(1, d + 1) ** -power) @ right.T).astype(np.float32)


@pytest.mark.parametrize("power", [0.3, 1.0])
@pytest.mark.parametrize("shape", [(40, 60), (60, 40), (50, 50), (KRYLOV, 300), (300, KRYLOV)])
def test_no_matrix_of_this_rank_is_nearer(shape: tuple[int, int], power: float) -> None:
    matrix = falling(shape, power)
    values = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
    left, right, kept = low_rank(matrix, 6)
    assert (left.shape, right.shape) == ((shape[0], 6), (6, shape[1]))
    assert left.dtype == right.dtype == np.float32
    error = np.linalg.norm(matrix.astype(np.float64) - left.astype(np.float64) @ right)
    assert error == pytest.approx(np.linalg.norm(values[6:]), rel=1e-6)  # Eckart and Young
    assert kept == pytest.approx(np.sum(values[:6] ** 2), rel=1e-6)
    np.testing.assert_allclose(np.linalg.norm(left, axis=0), np.linalg.norm(right, axis=1), rtol=1e-3)


def test_the_same_matrix_gives_the_same_factors() -> None:
    matrix = falling((KRYLOV, KRYLOV), 0.5)
    first, again = low_rank(matrix, 6), low_rank(matrix.copy(), 6)
    assert all(np.array_equal(left, right) for left, right in zip(first, again, strict=True))


@pytest.mark.parametrize("side", [12, KRYLOV])
def test_full_and_lower_ranks_lose_nothing(side: int) -> None:
    chance = np.random.default_rng(0)
    matrix = chance.standard_normal((side, 3), np.float32) @ chance.standard_normal((3, side + 5), np.float32)
    for rank in (3, 6, side):
        left, right, kept = low_rank(matrix, rank)
        np.testing.assert_allclose(left @ right, matrix, atol=1e-4)
        assert kept == pytest.approx(float(np.sum(matrix.astype(np.float64) ** 2)), rel=1e-6)


@pytest.mark.parametrize("exponent", [-90, 110])
def test_the_scale_of_a_matrix_changes_no_bit(exponent: int) -> None:
    matrix = falling((KRYLOV, KRYLOV), 0.5)
    for factor, scaled in zip(low_rank(matrix, 6), low_rank(np.ldexp(matrix, exponent), 6), strict=True):
        assert np.array_equal(np.ldexp(factor, exponent // 2 if np.ndim(factor) else 2 * exponent), scaled)


@pytest.mark.parametrize("side", [12, KRYLOV])
def test_nothing_stays_nothing(side: int) -> None:
    left, right, kept = low_rank(np.zeros((side, side + 1), np.float32), 6)
    assert not left.any()
    assert not right.any()
    assert kept == 0
