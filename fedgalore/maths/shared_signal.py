"""What several matrices share: AJIVE on row spaces, batched, from small Gram matrices only.

Feng, Jiang, Hannig, Marron (2018), "Angle-based joint and individual variation explained", arXiv 1704.02060. Each block
`X_i (r, k)` is split as `X_i = J_i + I_i + E_i`: a joint part in a row space common to all blocks, an individual part,
and noise. Shapes carry a batch of matrices and the blocks in front: `(B, M, r, k)`. Everything is float64 inside; the
row space of a block comes from its `r x r` Gram matrix and the stack's from an `Mr x Mr` one, never from a large SVD.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedgalore.maths.krylov import leading_of
from fedgalore.maths.random_spaces import DRAWS, QUANTILE, random_direction_bounds, random_orthonormal_rows
from fedgalore.maths.seeding import derive_seed

TOLERANCE = 1e-6  # of M: rounding in the squared singular values of the stack
WHOLE = 256  # rows of a stack that are decomposed whole; of more, the leading directions alone
RANK_TOLERANCE = 1e-7  # singular values below this share of the largest are rounding of float32 inputs


@dataclass(frozen=True)
class RowSpaces:
    """Thin SVDs of the blocks, `X_i = left_i diag(values_i) rows_i`, of which the first `ranks_i` are signal.

    Shapes: `left (B, M, r, r)`, `values (B, M, r)` descending, `rows (B, M, r, k)`, `ranks (B, M)`, `noise (B, M)`: how
    much of each block's singular values is the blocks' disagreement; 0 where signal ranks were given.
    """

    left: Tensor
    values: Tensor
    rows: Tensor
    ranks: Tensor
    noise: Tensor

    @property
    def is_signal(self) -> Tensor:
        """`(B, M, r)` mask of the signal directions."""
        return torch.arange(self.values.shape[-1], device=self.values.device) < self.ranks[..., None]

    def noise_thresholds(self) -> Tensor:
        """`(B, M)`: half way between the last signal value and the first noise value; below it a direction is noise."""
        padded = torch.nn.functional.pad(self.values, (0, 1))
        last = padded.gather(-1, (self.ranks[..., None] - 1).clamp_min(0))
        return ((last + padded.gather(-1, self.ranks[..., None])) / 2)[..., 0]


@dataclass(frozen=True)
class SharedSignal:
    """The joint row space of a batch of block families, as found by `extract`.

    Shapes: `basis (B, q, k)`, of which `joint_rank (B,)` rows are orthonormal and the others zero; `squared_values
    (B, q)` of the stack, the largest; the two bounds `(B,)` that a joint direction has to exceed.
    """

    basis: Tensor
    joint_rank: Tensor
    squared_values: Tensor
    wedin_bound: Tensor
    random_bound: Tensor
    spaces: RowSpaces

    def joint(self, blocks: Tensor) -> Tensor:
        """`J_i = X_i Q^T Q (B, M, r, k)`, float64."""
        basis = self.basis[:, None]
        return (blocks.double() @ basis.mT) @ basis

    def split(self, blocks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(J, I, E)`, each `(B, M, r, k)` float64, with `X = J + I + E`.

        `I_i` keeps the directions of `X_i - J_i` that exceed the block's noise threshold.
        """
        joint = self.joint(blocks)
        rest = blocks.double() - joint
        energies, left = torch.linalg.eigh(rest @ rest.mT)
        loud = energies.clamp_min(0).sqrt() > self.spaces.noise_thresholds()[..., None]
        left = left * loud[..., None, :]
        individual = left @ (left.mT @ rest)
        return joint, individual, rest - individual


def extract(blocks: Tensor, seed: int = 0, signal_ranks: Tensor | None = None) -> SharedSignal:
    """The row space that all blocks of a family share.

    Args:
        blocks: `(B, M, r, k)`: B families of M blocks each.
        seed: of the simulated bounds.
        signal_ranks: `(B, M)` initial signal ranks; estimated by `noise_levels` when not given.

    Raises:
        ValueError: `blocks` is not 4-dimensional or `signal_ranks` does not fit it.
    """
    if blocks.dim() != 4:
        raise ValueError(f"blocks: expected shape (B, M, r, k), got {tuple(blocks.shape)}")
    spaces = row_spaces(blocks, signal_ranks)
    batch, count, rank, k = blocks.shape
    wedin = wedin_bounds(spaces, k, seed)
    random = random_direction_bounds(spaces.ranks, k, seed).to(wedin.device)
    bound = torch.maximum(wedin, random) - TOLERANCE * count
    stack = (spaces.rows * spaces.is_signal[..., None]).reshape(batch, count * rank, k)
    # a joint direction takes one dimension of every block
    squared, candidates = leading_rows(stack, min(rank, k), bound)

    within = squared >= bound[:, None]
    within &= torch.arange(squared.shape[1], device=squared.device) < spaces.ranks.amin(-1, keepdim=True)
    # (B, M, q): how loud each candidate is in each block
    loudness = torch.linalg.vector_norm(blocks.double() @ candidates[:, None].mT, dim=-2)
    within &= (loudness >= spaces.noise_thresholds()[..., None]).all(-2)
    return SharedSignal(
        basis=candidates * within[..., None],
        joint_rank=within.sum(-1),
        squared_values=squared,
        wedin_bound=wedin,
        random_bound=random,
        spaces=spaces,
    )


def leading_rows(stack: Tensor, count: int, bound: Tensor) -> tuple[Tensor, Tensor]:
    """The largest squared singular values of a stack `(B, n, k)` and their right singular vectors as rows.

    Args:
        count: how many.
        bound: `(B,)`; a direction below it is not asked for, and need not be exact.

    Returns:
        `(B, count)`, falling, and `(B, count, k)`; float64.
    """
    if stack.shape[1] <= WHOLE:
        squared, vectors = torch.linalg.eigh(stack @ stack.mT)
        squared, vectors = squared.flip(-1)[:, :count].clamp_min(0), vectors.flip(-1)[..., :count]
        return squared, (vectors.mT @ stack) / squared[..., None].clamp_min(TOLERANCE).sqrt()
    pairs = [leading_of(one, count, float(least)) for one, least in zip(stack, bound, strict=True)]
    return torch.stack([squared for squared, _ in pairs]), torch.stack([rows for _, rows in pairs])


def row_spaces(blocks: Tensor, signal_ranks: Tensor | None = None) -> RowSpaces:
    """SVDs of the blocks through their Gram matrices, with given or estimated signal ranks."""
    wide = blocks.double()
    energies, left = torch.linalg.eigh(wide @ wide.mT)
    values, left = energies.flip(-1).clamp_min(0).sqrt(), left.flip(-1)
    floor = RANK_TOLERANCE * values[..., :1]
    numeric = (values > floor).sum(-1)
    noise = torch.zeros_like(values[..., 0])
    if signal_ranks is None:
        noise = noise_levels(wide)
        signal_ranks = (values > noise[..., None]).sum(-1).clamp_min(1)
    elif (
        signal_ranks.shape != numeric.shape or int(signal_ranks.max()) > values.shape[-1] or int(signal_ranks.min()) < 0
    ):
        raise ValueError(f"signal_ranks: expected shape {tuple(numeric.shape)} with values in [0, {values.shape[-1]}]")
    rows = (left.mT @ wide) / torch.where(values > floor, values, torch.inf)[..., None]
    return RowSpaces(left, values, rows, torch.minimum(signal_ranks.to(numeric.device), numeric), noise)


def noise_levels(blocks: Tensor) -> Tensor:
    """The singular value below which a direction of each block may be the blocks' disagreement, `(B, M)`.

    The noise is the median singular value of what is left of a block, scaled to norm 1, without the blocks' mean; the
    level is the optimal threshold for an unknown noise (Gavish, Donoho 2014, arXiv 1305.5870). A single block, or
    blocks that are all equal, disagree in nothing: everything in them is signal.
    """
    rank, k = blocks.shape[-2:]
    norms = torch.linalg.matrix_norm(blocks)
    scaled = blocks / norms[..., None, None].clamp_min(torch.finfo(blocks.dtype).tiny)
    differing = scaled - scaled.mean(1, keepdim=True)
    spread: Tensor = torch.linalg.eigvalsh(differing @ differing.mT).clamp_min(0).sqrt()
    beta = min(rank, k) / max(rank, k)
    omega = 0.56 * beta**3 - 0.95 * beta**2 + 1.82 * beta + 1.43
    return norms * omega * spread.median(-1).values


def wedin_bounds(spaces: RowSpaces, k: int, seed: int) -> Tensor:
    """`(B,)`: the squared singular value that directions shared by all blocks keep under the blocks' own noise.

    Wedin's theorem bounds the sine of each block's perturbation by `max(|E V*|, |E^T U*|) / sigma_signal`; as in AJIVE,
    `V*` and `U*` are random orthonormal directions outside the block's signal, and the bound is a low quantile of
    `M - sum_i sin_i^2` over the draws. Where the signal ranks were estimated, the estimated noise is a lower bound of
    each block's perturbation (ours).
    """
    count, rank = spaces.values.shape[1:]
    device = spaces.values.device
    # A block that is all signal has no noise of its own to draw from, but differs from the others by this much. Without
    # it nothing of blocks that agree but for a percent would be joint.
    weakest = spaces.values.gather(-1, (spaces.ranks[..., None] - 1).clamp_min(0))[..., 0]
    least = (spaces.noise / weakest.clamp_min(torch.finfo(weakest.dtype).tiny)).clamp_max(1)
    sines = least.expand(DRAWS, -1, -1).clone()
    # no draw exceeds the loudest noise; below the estimated noise, which ranks were estimated by, there is none to make
    floor = torch.maximum(spaces.noise, RANK_TOLERANCE * spaces.values[..., 0])
    draws = torch.nn.functional.pad(spaces.values, (0, 1)).gather(-1, spaces.ranks[..., None])[..., 0] > floor
    for client in range(count):  # a draw of its own for each block: their disturbances are independent
        for signal in sorted(set(spaces.ranks[draws[:, client], client].tolist())):
            noise = rank - signal
            if signal == 0 or noise == 0:  # no signal to perturb, or no noise to perturb it
                continue
            here = draws[:, client] & (spaces.ranks[:, client] == signal)
            loud = spaces.values[here, client, signal:]  # (n, noise)
            sigma = spaces.values[here, client, signal - 1]
            generator = torch.Generator().manual_seed(derive_seed(seed, "wedin", rank, k, signal, client))
            right = random_orthonormal_rows(DRAWS, k - signal, noise, min(signal, k - signal), generator).to(device)
            inner = random_orthonormal_rows(DRAWS, noise, noise, min(signal, noise), generator).to(device)
            worst = torch.maximum(_spectral_norms(loud, right), _spectral_norms(loud, inner))  # (n, DRAWS)
            drawn = (worst / sigma[:, None]).clamp_max(1).T
            sines[:, here, client] = torch.maximum(sines[:, here, client], drawn)
    totals = count - sines.square().sum(-1)
    return totals.quantile(QUANTILE, dim=0)


def _spectral_norms(scales: Tensor, matrices: Tensor) -> Tensor:
    """`|diag(scales_n) matrices_t|` for scales `(n, a)` and matrices `(t, a, b)`: `(n, t)`."""
    scaled = scales[:, None, :, None] * matrices
    gram = scaled.mT @ scaled
    largest: Tensor = torch.linalg.eigvalsh(gram)[..., -1]
    return largest.clamp_min(0).sqrt()
