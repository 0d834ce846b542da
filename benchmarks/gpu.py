"""What a GPU makes of the server's maths at the sizes of Llama 3 8B: `make bench-gpu`, `python -m benchmarks.gpu`.

First the tests that are marked `gpu`. Then, for one matrix of each shape with the changes of 16 clients at rank 8: the
cut of their mean in factors (what goes down, and what is kept), and AJIVE on their second moments. A line has the
seconds of the quickest of three, the arithmetic of the large products alone and the bytes of their factors, each a
second, and both as shares of what the device does in one large float32 product and in one copy, in the same run.

It takes a few minutes. Without a GPU it says so and ends; `--dry` runs all of it on the CPU, at a 16th of the sizes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.ajive import second_moments
from fedgalore.maths.factors import OVERSAMPLING, POWER_ITERATIONS, ThinSum, best_right, remainder, split
from fedgalore.maths.mean import as_terms
from fedgalore.maths.shared_signal import extract

SHAPES = ((4096, 4096), (1024, 4096), (4096, 14336))
CLIENTS, RANK, SENT = 16, 8, 60
TESTS_LIMIT_S = 240


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """The quickest of three, when the device has finished."""

    def finish() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    times = []
    for _ in range(4):  # the first makes kernels ready
        finish()
        before = time.perf_counter()
        work()
        finish()
        times.append(time.perf_counter() - before)
    return min(times[1:])


def changes(d: int, k: int, device: torch.device) -> ThinSum:
    """Of all clients, and what earlier rounds left out."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(0, -1.5, SENT)[:, None] / k**0.5
    lefts = [torch.randn(1, d, SENT, generator=generator) / d**0.5 for _ in range(CLIENTS + 1)]
    rights = [sizes * torch.randn(1, SENT, k, generator=generator) for _ in lefts]
    lefts, rights = ([factor.to(device) for factor in factors] for factors in (lefts, rights))
    return ThinSum(as_terms(lefts, rights, [1 / CLIENTS] * len(lefts)))


def cut(whole: ThinSum) -> None:
    left = split(whole, SENT).left
    right = best_right(left, whole)
    remainder(whole, left, right, SENT)


def work_of_cut(d: int, k: int) -> tuple[float, float]:
    """Floating point operations of the products through the factors, and the bytes that these read."""
    columns, width = SENT * (CLIENTS + 1), SENT + OVERSAMPLING
    passes = 2.5 + 2 * POWER_ITERATIONS  # of a range finder, of which there are two
    operations = passes * width * (columns + columns + SENT) + SENT * columns
    return 2.0 * (d + k) * operations, 4.0 * (d + k) * (passes * (2 * columns + SENT) + columns)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry", action="store_true", help="on the CPU, at a 16th of the sizes")
    dry = parser.parse_args().dry
    if not dry and not torch.cuda.is_available():
        print("torch sees no GPU here; --dry runs the same on the CPU, at a 16th of the sizes")
        return 0
    device, part = torch.device("cpu" if dry else "cuda"), 16 if dry else 1
    print(f"{torch.cuda.get_device_name() if not dry else 'CPU, a 16th of the sizes'}, torch {torch.__version__}")
    failed = 0
    if not dry:
        tests = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "gpu", "tests/fedgalore"]
        failed = subprocess.run(tests, env=os.environ, timeout=TESTS_LIMIT_S, check=False).returncode
    side = 8192 // part
    square = torch.randn(side, side, device=device)
    peak = 2 * side**3 / seconds(lambda: square @ square, device)
    copied = 2 * square.nbytes / seconds(square.clone, device)
    print(f"one product of {side} x {side}: {peak / 1e9:.0f} GFLOP/s; one copy: {copied / 1e9:.0f} GB/s")
    print(f"{'':<32}{'s':>9}{'GFLOP/s':>10}{'share':>8}{'GB/s':>8}{'share':>8}")
    for d, k in ((d // part, k // part) for d, k in SHAPES):
        spent = seconds(partial(cut, changes(d, k, device)), device)
        operations, read = work_of_cut(d, k)
        line = f"{f'cut {d} x {k}, {CLIENTS} clients':<32}{spent:>9.4f}{operations / spent / 1e9:>10.0f}"
        line += f"{operations / spent / peak:>8.2f}{read / spent / 1e9:>8.0f}{read / spent / copied:>8.2f}"
        print(line, flush=True)
    for k in (4096 // part, 14336 // part):
        blocks = second_moments(4, CLIENTS, RANK, k).to(device)
        spent = seconds(partial(extract, blocks), device) / len(blocks)
        line = f"{f'AJIVE {RANK} x {k}, {CLIENTS} clients':<32}{spent:>9.4f}{'':>18}"
        read = blocks[0].nbytes / spent
        print(f"{line}{read / 1e9:>8.2f}{read / copied:>8.2f}", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
