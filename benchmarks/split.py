"""A round's mean of one matrix, cut for the way down: in factors, and as a dense matrix. `python -m benchmarks.split`.

Both ways start from the clients' factors and what earlier rounds left out, and end with what goes down and what is left
out next: in factors by `fedgalore.maths.factors`, densely by the mean in float64 and an eigendecomposition of `d x d`.
The script prints processor seconds of each on one thread (the best of three), the most memory that torch held beyond
the inputs, and the share of the mean that each cut leaves out; on a GPU, where there is one, wall seconds as well.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.profiler import profile

from fedgalore.maths.factors import ThinSum, best_right, remainder, split
from fedgalore.maths.mean import Factors, as_terms, mean_of_factors, squared_norm_of_product

SHAPES = ((384, 1536, 4), (1024, 4096, 4), (1024, 4096, 16), (4096, 11008, 16))
LAST_DIGITS = -1.5  # log10 of the last singular value that a client sends; the first is 1


class Changes(NamedTuple):
    """`lefts` of the clients and what earlier rounds left out, `(1, d, q)` each; `rights` `(1, q, k)`, weighed."""

    lefts: list[Tensor]
    rights: list[Tensor]


def drawn(d: int, k: int, clients: int, rank: int) -> Changes:
    """A part that the clients have in common, and one of each alone."""
    generator = torch.Generator().manual_seed(0)
    values = torch.logspace(0, LAST_DIGITS, rank)
    common, shared = torch.randn(1, d, rank, generator=generator), torch.randn(1, rank, k, generator=generator)
    lefts = [(common + torch.randn(1, d, rank, generator=generator)) / d**0.5 for _ in range(clients + 1)]
    rights = [
        values[:, None] * (shared + torch.randn(1, rank, k, generator=generator)) / k**0.5 / clients for _ in lefts
    ]
    return Changes(lefts, rights)


def in_factors(changes: Changes, rank: int) -> Factors:
    """What goes down."""
    whole = ThinSum(as_terms(changes.lefts, changes.rights, [1.0] * len(changes.lefts)))
    sent_left = split(whole, rank).left.half()
    sent_right = best_right(sent_left.float(), whole).half()
    remainder(whole, sent_left.float(), sent_right.float(), rank)
    return Factors(sent_left, sent_right)


def densely(changes: Changes, rank: int) -> Factors:
    *lefts, kept_left = changes.lefts
    *rights, kept_right = changes.rights
    mean = mean_of_factors(lefts, rights, [1.0] * len(lefts))
    whole = mean.left.double() @ mean.right.double() + (kept_left @ kept_right).double()
    sent, _ = truncate(whole, rank)
    return sent


def truncate(change: torch.Tensor, rank: int) -> tuple[Factors, torch.Tensor]:
    """The best rank-`rank` part of `change (B, d, k)` in float16, by its Gram matrix, and what it leaves out."""
    vectors = torch.linalg.eigh(change @ change.mT).eigenvectors
    left = vectors.flip(-1)[..., :rank].half()
    right = (left.to(change.dtype).mT @ change).half()
    return Factors(left, right), (change - left.to(change.dtype) @ right.to(change.dtype)).float()


def left_out(changes: Changes, sent: Factors) -> float:
    """The share of the mean's squared norm that does not go down; it is orthogonal to what does."""
    whole = squared_norm_of_product(torch.cat(changes.lefts, dim=-1), torch.cat(changes.rights, dim=-2))
    return float(1 - squared_norm_of_product(sent.left, sent.right) / whole)


def best(work: Callable[[], Factors], clock: Callable[[], float]) -> tuple[float, Factors]:
    """Seconds of the quickest of three, and what it returned."""
    times = []
    for _ in range(3):
        before = clock()
        result = work()
        times.append(clock() - before)
    return min(times), result


def peak_mb(work: Callable[[], object]) -> float:
    with profile(profile_memory=True) as watched:
        work()
    events = watched.kineto_results.events()
    return max(accumulate(event.nbytes() for event in events if event.name() == "[memory]")) / 2**20


def synchronized() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=60)
    rank = parser.parse_args().rank
    torch.set_num_threads(1)
    print(
        f"rank {rank}, torch {torch.__version__}; seconds, MB and share left out: densely, in factors, ratio of seconds"
    )
    for d, k, clients in SHAPES:
        changes = drawn(d, k, clients, rank)
        ways = partial(densely, changes, rank), partial(in_factors, changes, rank)
        (slow, slow_sent), (quick, quick_sent) = (best(way, time.process_time) for way in ways)
        slow_mb, quick_mb = (peak_mb(way) for way in ways)
        slow_share, quick_share = (left_out(changes, sent) for sent in (slow_sent, quick_sent))
        print(
            f"{d:>5} x {k:<5} {clients:>3} clients, one core {slow:>8.3f} {slow_mb:>5.0f} {slow_share:>7.2%} "
            f"{quick:>8.3f} {quick_mb:>5.0f} {quick_share:>7.2%} {slow / quick:>7.1f}",
            flush=True,
        )
        if torch.cuda.is_available():
            there = Changes(*([tensor.cuda() for tensor in part] for part in changes))
            (slow, _), (quick, _) = (best(partial(way, there, rank), synchronized) for way in (densely, in_factors))
            print(f"  {torch.cuda.get_device_name()}: {slow:.4f}, {quick:.4f}, {slow / quick:.1f}", flush=True)


if __name__ == "__main__":
    main()
