"""A product in other factors, against numpy's decomposition of the whole product."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fedgalore.maths.refactor import with_orthonormal_rows


@pytest.mark.parametrize("rank", [0, 3, 5])
@pytest.mark.parametrize("shape", [(30, 20), (5, 40), (40, 5)])
def test_the_product_stays_and_the_right_factor_is_orthonormal(shape: tuple[int, int], rank: int) -> None:
    """Whatever the product's rank is, up to that of the factors."""
    chance = torch.Generator().manual_seed(7)
    left = torch.randn(shape[0], rank, generator=chance) @ torch.randn(rank, 5, generator=chance)
    right = torch.randn(5, shape[1], generator=chance)
    product = (left.double() @ right.double()).numpy()
    new_left, new_right = with_orthonormal_rows(left, right)
    assert [(f.dtype, f.shape) for f in (new_left, new_right)] == [(f.dtype, f.shape) for f in (left, right)]
    np.testing.assert_allclose(new_left.double() @ new_right.double(), product, atol=1e-5)
    np.testing.assert_allclose(new_right @ new_right.T, np.eye(5), atol=1e-6)
    values = np.linalg.svd(product, compute_uv=False)[:5]
    np.testing.assert_allclose(new_left.norm(dim=0), values, rtol=1e-5, atol=1e-5)
