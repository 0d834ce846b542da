"""Derived seeds, number by number: sites of two versions must draw the same, and a resumed job what it drew before."""

from __future__ import annotations

import pytest

from fedgalore.maths.seeding import derive_seed


@pytest.mark.parametrize(
    ("seed", "purpose", "expected"),
    [
        (0, (), 3456079177858693020),
        (7, ("batches", "hospital-a", 3), 7806644653389157330),
        (2**62, ("noise", 1), 1371779224682084496),
    ],
)
def test_a_seed_is_the_first_bits_of_sha256_of_seed_and_purpose(
    seed: int, purpose: tuple[str | int, ...], expected: int
) -> None:
    assert derive_seed(seed, *purpose) == expected
