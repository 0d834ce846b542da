"""Work whose bits hang on no number of threads: a piece on one thread, several pieces side by side.

LAPACK's factorisations and sums over whole tensors round otherwise with another number of threads, and a large product
may. So what server, agents and simulation have to agree on is computed in pieces that are the same everywhere, and the
threads that torch was given share out the pieces.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")


@contextmanager
def one_thread() -> Iterator[None]:
    """A block that computes on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def in_order(work: Callable[[T], R], pieces: Iterable[T], at_most: int | None = None) -> Iterator[R]:
    """What `work` makes of each piece, in their order.

    Args:
        work: is called on several threads at once, on as many as torch has here.
        at_most: as many pieces are in memory, under way or waiting for their turn; default: one a thread.
    """
    threads = torch.get_num_threads()
    side_by_side = threads if at_most is None else min(threads, at_most)
    if side_by_side == 1:
        for piece in pieces:
            with one_thread():
                result = work(piece)
            yield result
            del result  # not held while the next one is made
        return
    try:
        with ThreadPoolExecutor(side_by_side, initializer=_alone) as pool:
            begun: deque[Future[R]] = deque()
            for piece in pieces:
                if len(begun) == side_by_side:
                    yield begun.popleft().result()
                begun.append(pool.submit(work, piece))
            while begun:
                yield begun.popleft().result()
    finally:
        torch.set_num_threads(threads)  # what a thread sets, threads that begin later take over


def _alone() -> None:
    """For good: what a thread has asked for once, it does not take over later from what others set meanwhile."""
    torch.get_num_threads()
    torch.set_num_threads(1)
