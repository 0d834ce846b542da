"""Block-wise quantization against a float16 copy, on one core: `python -m benchmarks.quantize`.

For factors of a 4096 x 11008 matrix at rank 120, a large head and a second moment, the script prints nanoseconds an
entry: ours, those of `matrix.half()` (`halves.float()` on the way back), and the ratio. Each is the best of several
runs, taken in turn. At last it prints by how much the largest matrix raised the peak of the process's memory, beside
the bytes of the result.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable

import torch
from torch import Tensor

from fedgalore.maths.quantization import dequantize, quantize, quantized_bytes

MATRICES = {  # by name: shape, axis, whether there are negative entries
    "left": ((4096, 120), -2, True),
    "right": ((120, 11008), -1, True),
    "head": ((4096, 4096), -1, True),
    "second moment": ((16, 11008), -1, False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    _print_memory()
    print(
        f"{'matrix':14} {'bits':>4} | {'encode':>7} {'half':>6} {'ratio':>6} | {'decode':>7} {'float':>6} {'ratio':>6}"
    )
    for name, (shape, axis, signed) in MATRICES.items():
        drawn = torch.randn(shape)
        matrix = drawn if signed else drawn.abs()
        for bits in (4, 8, 16):
            row = _row(matrix, bits, axis, signed, options.runs)
            print(f"{name:14} {bits:4} | {row}")


def _row(matrix: Tensor, bits: int, axis: int, signed: bool, runs: int) -> str:
    data, halves, shape = quantize(matrix, bits, axis, signed), matrix.half(), tuple(matrix.shape)
    encoding, copying, decoding, widening = _best(
        [
            lambda: quantize(matrix, bits, axis, signed),
            matrix.half,
            lambda: dequantize(data, shape, bits, axis, signed),
            halves.float,
        ],
        runs,
        matrix.numel(),
    )
    there = f"{encoding:7.2f} {copying:6.2f} {encoding / copying:6.2f}"
    return f"{there} | {decoding:7.2f} {widening:6.2f} {decoding / widening:6.2f}"


def _best(calls: list[Callable[[], Tensor]], runs: int, entries: int) -> list[float]:
    """Of each call, the fewest nanoseconds an entry."""
    best = [float("inf")] * len(calls)
    for _ in range(runs):
        for index, call in enumerate(calls):
            started = time.perf_counter()
            call()
            best[index] = min(best[index], (time.perf_counter() - started) / entries * 1e9)
    return best


def _print_memory() -> None:
    """What encoding 256 MB of float32 adds to the process's peak. First, as a peak never falls."""
    matrix = torch.randn(8192, 8192)
    quantize(matrix[:64], 4)  # what the library itself needs at its first use
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    quantize(matrix, 4)
    added = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    size = quantized_bytes(matrix.shape, 4) / 2**20
    print(f"256 MiB at 4 bits: the peak of memory rose by {added:.1f} MiB, the result has {size:.1f} MiB")


if __name__ == "__main__":
    main()
