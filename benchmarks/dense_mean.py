"""Dense updates into a mean, and what memory and hash allow: `python -m benchmarks.dense_mean [--mb 256]`.

The script takes the mean, the median and the trimmed mean of the clients' tensors as an aggregation does, and as one
expression over whole tensors. It prints processor seconds of both on one thread, their ratio, whether the bits are the
same, and two floors: adding the tensors in float32, and the SHA-256 of all updates, the new weights and the aggregate.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from fedgalore.maths.mean import in_blocks
from fedgalore.maths.robust import combine
from fedgalore.rounds import weighed

SIDE = 2048


def seconds(work: Callable[[], object]) -> float:
    """The quickest of three."""
    times = []
    for _ in range(3):
        before = time.process_time()
        work()
        times.append(time.process_time() - before)
    return min(times)


def stacked(how: str, tensors: list[Tensor]) -> Tensor:
    return combine(torch.stack(tensors).double(), how, 0.1)


def at_once(tensors: list[Tensor], way: Callable[[list[Tensor]], Tensor]) -> Tensor:
    return way(tensors).float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=256, help="of each client's update")
    parser.add_argument("--clients", type=int, nargs="+", default=[2, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    matrices = max(1, options.mb * 2**20 // (4 * SIDE * SIDE))
    for count in options.clients:
        clients = [torch.randn(SIDE, SIDE) for _ in range(count)]
        shares = torch.full((count,), 1 / count, dtype=torch.float64)
        ways: dict[str, Callable[[list[Tensor]], Tensor]] = {"mean": partial(weighed, shares=shares)}
        ways |= {how: partial(stacked, how) for how in ("median", "trimmed_mean")}
        added = matrices * seconds(partial(sum, clients))
        hashed = matrices * (count + 2) * seconds(partial(hashlib.sha256, clients[0].numpy().tobytes()))
        print(f"{count} clients x {options.mb} MB; floors: adding {added:.2f} s, hashing {hashed:.2f} s")
        for name, way in ways.items():
            whole = matrices * seconds(partial(at_once, clients, way))
            blocks = matrices * seconds(partial(in_blocks, clients, way))
            same = torch.equal(in_blocks(clients, way), at_once(clients, way))
            print(f"  {name}: whole {whole:.2f} s, in blocks {blocks:.2f} s, {whole / blocks:.1f}, same bits: {same}")


if __name__ == "__main__":
    main()
