"""Robust means on a handful of numbers: how many are left out, and what the rest comes to."""

from __future__ import annotations

import pytest
import torch

from fedgalore.maths.robust import combine, combine_numbers, trimmed


@pytest.mark.parametrize(
    ("count", "share", "cut"),
    [
        (1, 0.1, 0),
        (2, 0.4, 0),
        (3, 0.1, 1),
        (5, 0.1, 1),
        (5, 0.3, 2),
        (10, 0.01, 1),
        (10, 0.2, 2),
        (10, 0.49, 4),
        (100, 0.2, 20),
    ],
)
def test_a_share_of_at_least_1_is_left_out_at_each_end_while_1_is_left(count: int, share: float, cut: int) -> None:
    assert trimmed(count, share) == cut


VALUES = [0.2, 100.0, 0.4, -100.0, 0.1]


@pytest.mark.parametrize(
    ("how", "share", "expected"),
    [("median", 0.1, 0.2), ("trimmed_mean", 0.2, (0.1 + 0.2 + 0.4) / 3), ("trimmed_mean", 0.4, 0.2)],
)
def test_a_number_of_every_client_is_combined_in_float64(how: str, share: float, expected: float) -> None:
    assert combine_numbers(VALUES, how, share) == pytest.approx(expected, rel=1e-15)
    combined = combine(torch.tensor(VALUES, dtype=torch.float64)[:, None], how, share)
    assert combined.tolist() == [pytest.approx(expected, rel=1e-15)]
