"""What clients' second moments share, by batches and by the plain steps of AJIVE: `python -m benchmarks.ajive`.

The plain steps take one matrix after the other: an SVD of each client's block, an SVD of the stack of row spaces, and
the bound for unrelated directions from a hundred draws of random row spaces, as the paper says. Of the draws a few are
made, and timed for a hundred. The script prints processor seconds a matrix of both on one thread, their ratio, and
whether both find the same joint space; on a GPU, where there is one, wall seconds a matrix as well.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import Tensor

from fedgalore.maths.random_spaces import DRAWS, QUANTILE
from fedgalore.maths.shared_signal import extract, noise_levels

SIZES = ((72, 32, 8, 768), (8, 64, 8, 768), (8, 128, 8, 768), (8, 256, 8, 768), (4, 32, 16, 4096), (2, 256, 16, 4096))


def second_moments(matrices: int, clients: int, rank: int, k: int) -> Tensor:
    """Blocks `(B, M, r, k)` that agree but for their sizes and a third of each element."""
    generator = torch.Generator().manual_seed(0)
    common = torch.rand(matrices, 1, rank, k, generator=generator) ** 4
    sizes = torch.rand(matrices, clients, rank, 1, generator=generator)
    return common * sizes * (1 + 0.3 * torch.randn(matrices, clients, rank, k, generator=generator)).abs()


def plainly(blocks: Tensor, wedin_bound: float, draws: int) -> Tensor:
    """The joint rows `(q, k)` of blocks `(M, r, k)`; the draws stand for a hundred."""
    levels = noise_levels(blocks[None])[0]
    spaces, thresholds = [], []
    for block, level in zip(blocks, levels, strict=True):
        _, values, rows = torch.linalg.svd(block, full_matrices=False)
        rank = max(1, int((values > level).sum()))
        spaces.append(rows[:rank])
        padded = torch.cat([values, values.new_zeros(1)])
        thresholds.append((padded[rank - 1] + padded[rank]) / 2)
    largest = []
    for _ in range(draws):
        random = [torch.linalg.qr(torch.randn_like(space).mT)[0].mT for space in spaces]
        largest.append(torch.linalg.matrix_norm(torch.cat(random), ord=2) ** 2)
    bound = max(wedin_bound, float(torch.stack(largest).quantile(1 - QUANTILE)))
    _, values, rows = torch.linalg.svd(torch.cat(spaces), full_matrices=False)
    candidates = rows[: min(len(space) for space in spaces)][values[: min(map(len, spaces))] ** 2 >= bound]
    loud = (torch.linalg.vector_norm(blocks @ candidates.mT, dim=1) >= torch.stack(thresholds)[:, None]).all(0)
    return candidates[loud]


def plain_seconds(blocks: Tensor, wedin_bound: float, draws: int) -> tuple[float, Tensor]:
    """What the plain steps would take with all draws, and the joint rows."""
    times = []
    for count in (1, 1 + draws):
        before = time.process_time()
        rows = plainly(blocks, wedin_bound, count)
        times.append(time.process_time() - before)
    return times[0] + (times[1] - times[0]) / draws * (DRAWS - 1), rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3, help="of the plain steps' hundred that are really made")
    draws = parser.parse_args().draws
    torch.set_num_threads(1)
    print("matrices, clients, rank, k: seconds a matrix, in batches and by plain steps; their ratio; the joint space")
    for sizes in SIZES:
        blocks = second_moments(*sizes)
        before = time.process_time()
        found = extract(blocks)
        ours = (time.process_time() - before) / sizes[0]
        plain, rows = plain_seconds(blocks[0].double(), float(found.wedin_bound[0]), draws)
        joint = found.basis[0][found.basis[0].norm(dim=1) > 0.5]
        same = len(rows) == len(joint) and bool((torch.linalg.svdvals(rows @ joint.mT) > 1 - 1e-9).all())
        line = f"{sizes}: {ours:.4f} {plain:.3f} {plain / ours:.0f} {'the same' if same else 'another'}"
        if torch.cuda.is_available():
            there = blocks.cuda()
            extract(there)
            torch.cuda.synchronize()
            before = time.perf_counter()
            extract(there)
            torch.cuda.synchronize()
            line += f"; {torch.cuda.get_device_name()}: {(time.perf_counter() - before) / sizes[0]:.4f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
