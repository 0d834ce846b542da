"""Leading singular directions: the dense SVD as oracle, spectra that settle at once, late and never."""

import pytest
import torch

from fedgalore.maths import krylov
from fedgalore.maths.krylov import leading_of


def with_values(values: torch.Tensor, n: int, k: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    left, right = (
        torch.linalg.qr(torch.randn(side, len(values), generator=generator, dtype=torch.float64))[0] for side in (n, k)
    )
    return (left * values.double()) @ right.T


SPECTRA = {
    "few and loud": torch.cat([torch.tensor([9.0, 9, 8]), torch.full((60,), 0.5)]),
    "falling": torch.logspace(0, -3, 100),
    "almost flat": torch.linspace(1, 0.99, 100),
    "of rank 2": torch.tensor([2.0, 1.0]),
    "zeros": torch.zeros(3),
}


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize(("n", "k"), [(300, 120), (120, 300)])
@pytest.mark.parametrize("steps", [krylov.STEPS, 1])
def test_values_and_directions_are_those_of_the_svd(monkeypatch, name, n, k, steps):
    monkeypatch.setattr(krylov, "STEPS", steps)
    matrix = with_values(SPECTRA[name], n, k)
    squared, rows = leading_of(matrix, 4, -1.0)
    _, values, right = torch.linalg.svd(matrix, full_matrices=False)
    torch.testing.assert_close(squared, values[:4] ** 2, atol=1e-8, rtol=1e-8)
    torch.testing.assert_close((matrix @ rows.T).square().sum(0), squared, atol=1e-8, rtol=1e-8)
    loud = int((values[:4] > 1e-3).sum())
    torch.testing.assert_close(rows[:loud] @ rows[:loud].T, torch.eye(loud).double(), atol=1e-8, rtol=0)
    if values[loud - 1] > values[loud] * 1.01:  # else any direction of a cluster will do
        torch.testing.assert_close(torch.linalg.svdvals(rows[:loud] @ right[:loud].T), torch.ones(loud).double())


def test_what_stays_below_the_bound_need_not_settle(monkeypatch):
    monkeypatch.setattr(torch.linalg, "eigh", eigh := Counting(torch.linalg.eigh))
    matrix = with_values(torch.cat([torch.tensor([9.0]), torch.linspace(1, 0.99, 99)]), 300, 120)
    squared, _ = leading_of(matrix, 4, 40.0)
    assert float(squared[0]) == pytest.approx(81)
    assert squared[1:].max() < 40
    few = eigh.calls
    leading_of(matrix, 4, -1.0)
    assert eigh.calls - few > few


class Counting:
    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)
