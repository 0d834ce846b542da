"""AJIVE written down a second time, slowly: an oracle for `fedgalore.maths.shared_signal`.

From the description in Feng, Jiang, Hannig, Marron (2018), arXiv 1704.02060, with full SVDs in numpy and both bounds
resampled by brute force. Blocks are `(r_i, k)` with observations in columns, so the joint space lies in `R^k`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Matrix = np.ndarray


@dataclass(frozen=True)
class Decomposition:
    basis: Matrix  # (joint rank, k), orthonormal rows
    joint: list[Matrix]
    individual: list[Matrix]
    noise: list[Matrix]
    wedin_bound: float
    random_bound: float

    @property
    def joint_rank(self) -> int:
        return len(self.basis)


def orthonormal_columns(generator: np.random.Generator, rows: int, columns: int) -> Matrix:
    """Uniform on the Stiefel manifold: QR of a Gaussian with the signs of R's diagonal taken out."""
    q, r = np.linalg.qr(generator.standard_normal((rows, columns)))
    return q * np.sign(np.diag(r))


def threshold(values: Matrix, rank: int) -> float:
    """Half way between the last value that counts as signal and the first that does not."""
    padded = np.append(values, 0.0)
    return float(padded[rank - 1] + padded[rank]) / 2


def wedin_samples(blocks: list[Matrix], ranks: list[int], draws: int, generator: np.random.Generator) -> Matrix:
    """Step 2: draws of `M - sum_i sin^2`, with each block's perturbation seen from random directions off its signal."""
    totals = np.full(draws, float(len(blocks)))
    for block, rank in zip(blocks, ranks, strict=True):
        left, values, right = np.linalg.svd(block, full_matrices=True)
        off_left, off_right = left[:, rank:], right[rank:].T
        if off_left.shape[1] == 0 or rank == 0:
            continue
        for draw in range(draws):
            V = off_right @ orthonormal_columns(generator, off_right.shape[1], min(rank, off_right.shape[1]))
            U = off_left @ orthonormal_columns(generator, off_left.shape[1], min(rank, off_left.shape[1]))
            worst = max(np.linalg.norm(block @ V, 2), np.linalg.norm(U.T @ block, 2))
            totals[draw] -= min(worst / values[rank - 1], 1.0) ** 2
    return totals


def random_direction_samples(ranks: list[int], k: int, draws: int, generator: np.random.Generator) -> Matrix:
    """Step 2: draws of the largest squared singular value of stacked row spaces that are unrelated."""
    largest = np.empty(draws)
    for draw in range(draws):
        stack = np.vstack([orthonormal_columns(generator, k, rank).T for rank in ranks])
        largest[draw] = np.linalg.norm(stack, 2) ** 2
    return largest


def ajive(blocks: list[Matrix], ranks: list[int], seed: int = 0, draws: int = 200) -> Decomposition:
    """Steps 1 to 3 for blocks with given initial signal ranks."""
    generator = np.random.default_rng(seed)
    blocks = [np.asarray(block, dtype=np.float64) for block in blocks]
    k = blocks[0].shape[1]

    # 1. signal space of each block
    spaces, thresholds = [], []
    for block, rank in zip(blocks, ranks, strict=True):
        _, values, right = np.linalg.svd(block, full_matrices=False)
        spaces.append(right[:rank])
        thresholds.append(threshold(values, rank))

    # 2. which directions of the stacked signal spaces are joint
    _, values, right = np.linalg.svd(np.vstack(spaces), full_matrices=False)
    wedin = float(np.quantile(wedin_samples(blocks, ranks, draws, generator), 0.05))
    chance = float(np.quantile(random_direction_samples(ranks, k, draws, generator), 0.95))
    count = int(np.sum(values**2 > max(wedin, chance) - 1e-9))
    candidates = right[: min(count, *ranks)]
    kept = [v for v in candidates if all(np.linalg.norm(x @ v) >= t for x, t in zip(blocks, thresholds, strict=True))]
    basis = np.array(kept).reshape(-1, k)

    # 3. what each block shows inside the joint space, and what stands out of the rest
    joint = [block @ basis.T @ basis for block in blocks]
    individual = []
    for block, part, limit in zip(blocks, joint, thresholds, strict=True):
        left, values, right = np.linalg.svd(block - part, full_matrices=False)
        individual.append((left * np.where(values > limit, values, 0.0)) @ right)
    noise = [x - j - i for x, j, i in zip(blocks, joint, individual, strict=True)]
    return Decomposition(basis, joint, individual, noise, wedin, chance)
