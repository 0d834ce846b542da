"""Which losses leave while a round is trained."""

from __future__ import annotations

from math import isnan

import pytest

from client_agent.told_loss import ToldLoss


@pytest.mark.parametrize(
    ("batch_size", "least", "told"),
    [
        (1, 1, [1, 2, 3, 4, 5, 6, 7]),
        (4, 3, [1, 2, 3, 4, 5, 6, 7]),
        (1, 3, [None, None, 2, 2, 2, 2, 5.5]),  # four at the end: one alone would be told by the others
        (2, 3, [None, 1.5, 1.5, 3.5, 3.5, 3.5, 6]),
        (1, 7, [None] * 6 + [4]),
        (1, 8, [None] * 7),
    ],
)
def test_a_loss_is_of_enough_examples_and_so_is_what_two_of_them_tell(
    batch_size: int, least: int, told: list[float | None]
) -> None:
    loss = ToldLoss(7, batch_size, least)
    assert [None if isnan(mean := loss.after(step)) else mean for step in range(1, 8)] == told
