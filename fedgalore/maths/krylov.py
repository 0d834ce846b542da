"""A few leading singular directions of a large matrix, to rounding, without decomposing it.

A block Lanczos iteration with full reorthogonalisation (Golub, Underwood 1977), in float64: each step costs two
products with a thin block, and so is linear in the rows of the matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor

OVERSAMPLING = 8  # columns of a block beyond the directions asked for
STEPS = 24  # blocks; what has not settled by then is decomposed whole
SETTLED = 1e-10  # of the largest value: the residual of a direction that is found


def leading_of(matrix: Tensor, count: int, bound: float) -> tuple[Tensor, Tensor]:
    """The `count` largest squared singular values of `matrix (n, k)` and their right singular vectors as rows.

    Directions that stay below `bound` need not be exact; all others are, to `SETTLED`.

    Returns:
        `(count,)`, falling, and `(count, k)` with orthonormal rows.
    """
    k = matrix.shape[1]
    generator = torch.Generator("cpu").manual_seed(0)
    start = torch.randn(k, count + OVERSAMPLING, generator=generator, dtype=torch.float64, device="cpu")
    block = torch.linalg.qr(_squared(matrix, start.to(matrix.device)))[0]
    basis, images = block, _squared(matrix, block)
    for _ in range(STEPS):
        values, directions = torch.linalg.eigh(basis.mT @ images)
        values, directions = values.flip(-1)[:count], directions.flip(-1)[:, :count]
        errors = torch.linalg.vector_norm(images @ directions - basis @ directions * values, dim=0)
        if bool(((errors <= SETTLED * values[0]) | (values + errors < bound)).all()):
            return values.clamp_min(0), (basis @ directions).mT
        if basis.shape[1] + block.shape[1] > k:
            break
        block = images[:, -block.shape[1] :]
        for _ in range(2):  # twice is enough
            block = torch.linalg.qr(block - basis @ (basis.mT @ block))[0]
        basis, images = torch.cat([basis, block], dim=1), torch.cat([images, _squared(matrix, block)], dim=1)
    values, rows = torch.linalg.eigh(matrix.mT @ matrix if k < len(matrix) else matrix @ matrix.mT)
    values, rows = values.flip(-1)[:count].clamp_min(0), rows.flip(-1)[:, :count].mT
    if k < len(matrix):
        return values, rows
    rows = rows @ matrix
    return values, rows / torch.linalg.vector_norm(rows, dim=1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)


def _squared(matrix: Tensor, columns: Tensor) -> Tensor:
    """`X^T X` times some columns."""
    return matrix.mT @ (matrix @ columns)
