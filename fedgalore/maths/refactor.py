"""A product of low rank in other factors, whose right one has orthonormal rows. FedSVD, arXiv 2505.12805."""

from __future__ import annotations

import torch
from torch import Tensor


def with_orthonormal_rows(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """`U S (m, r)` and `V^T (r, n)` of the singular value decomposition `left right = U S V^T`, float32.

    The product is never formed: with the thin QR `right^T = Q R` it is `(left R^T) Q^T`, so that an `(m, r)` matrix is
    decomposed. The rows of `V^T` are orthonormal also where the product has a lower rank, or is zero.

    Args:
        left: `(m, r)` with `r <= m`.
        right: `(r, n)` with `r <= n`.
    """
    span, triangle = torch.linalg.qr(right.double().mT)
    vectors, values, rows = torch.linalg.svd(left.double() @ triangle.mT, full_matrices=False)
    return (vectors * values).float().contiguous(), (rows @ span.mT).float().contiguous()
