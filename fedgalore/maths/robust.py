"""Means over clients that a few of them cannot pull away: coordinate by coordinate, every client alike.

Yin, Chen, Ramchandran, Bartlett (2018), "Byzantine-robust distributed learning", arXiv 1803.01498. `stack (M, ...)`
holds one tensor of every client. Example counts do not weigh there: a client could claim any number.
"""

from __future__ import annotations

import torch
from torch import Tensor


def trimmed_mean(stack: Tensor, share: float) -> Tensor:
    """The mean of what is left without the smallest and the largest `trimmed(M, share)` values; `(...)`."""
    cut = trimmed(stack.shape[0], share)
    return stack.sort(dim=0).values[cut : stack.shape[0] - cut].mean(0)


def trimmed(count: int, share: float) -> int:
    """How many of `count` values are left out at each end: `share` of them, at least one, while one is left."""
    return min(max(1, round(share * count)), (count - 1) // 2)


def median(stack: Tensor) -> Tensor:
    """The middle value; of an even number of clients the mean of the two in the middle; `(...)`."""
    count = stack.shape[0]
    ordered = stack.sort(dim=0).values
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def combine(stack: Tensor, how: str, trim_share: float) -> Tensor:
    """`how`: `trimmed_mean` or `median`, as a job's `server.aggregation` names them."""
    if how == "median":
        return median(stack)
    assert how == "trimmed_mean", how
    return trimmed_mean(stack, trim_share)


def combine_numbers(values: list[float], how: str, trim_share: float) -> float:
    """The same of one number of every client."""
    return float(combine(torch.tensor(values, dtype=torch.float64), how, trim_share))
