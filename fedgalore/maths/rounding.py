"""Weights in bfloat16 that move by less than they can tell: stochastic rounding.

A bfloat16 has 8 significant bits, so a step of a thousandth of a weight is lost by rounding to nearest. Rounded up with
the probability that the rest is of a unit in the last place, the weight goes where float32 would go on average, at half
of its memory. Gupta et al. 2015, https://arxiv.org/abs/1502.02551.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

BLOCK = 2**15  # entries at a time on a CPU: what is in float32 then stays in its cache, and one thread is enough
POOL = 2**17  # random numbers that a move of a matrix draws
_HALF = 2**15
_KEPT = -(2**16)  # mask of a float32: the bits that bfloat16 has


def move_(weight: Tensor, change: Tensor | None, rate: float, keep: float, seed: int) -> None:
    """`W <- keep W + rate change`; a bfloat16 weight takes the float32 sum, rounded stochastically by `seed`.

    Args:
        weight: `(d, k)`, or a transposed view of one; changed in place.
        change: of its shape, float32; None: none.
        seed: in [0, 2^63); the same seed gives the same bits, on any number of threads, on a kind of device.
    """
    if weight.dtype is not torch.bfloat16:
        if keep != 1:
            weight.mul_(keep)
        if change is not None:
            weight.add_(change, alpha=rate)
        return
    if not weight.is_contiguous():  # so that blocks lie in one piece
        weight, change = weight.mT, None if change is None else change.mT
    rounded = _Rounding(weight.device, seed)
    rows = max(1, (BLOCK if weight.device.type == "cpu" else weight.numel()) // max(1, weight.shape[1]))
    parts = weight.split(rows)
    for part, moved in zip(parts, change.split(rows) if change is not None else [None] * len(parts), strict=True):
        rounded.move(part, moved, rate, keep)


def move_along_(weight: Tensor, pieces: Iterable[Tensor], rate: float, seed: int) -> None:
    """`W <- W + rate change`, as `move_` rounds it, for a change that nobody holds whole.

    Args:
        weight: contiguous; changed in place.
        pieces: the change's entries in their order, flat, float32.
    """
    rounded, flat, start = _Rounding(weight.device, seed), weight.view(-1), 0
    for piece in pieces:
        part = flat[start : start + len(piece)]
        start += len(piece)
        if weight.dtype is torch.bfloat16:
            rounded.move(part, piece, rate, 1.0)
        else:
            part.add_(piece, alpha=rate)


class _Rounding:
    """Moves parts of a bfloat16 weight, one after the other."""

    def __init__(self, device: torch.device, seed: int) -> None:
        self._draw = _on_cpu(seed) if device.type == "cpu" else _on_device(seed, device)
        self._scratch = torch.empty(0, device=device)

    def move(self, part: Tensor, change: Tensor | None, rate: float, keep: float) -> None:
        if self._scratch.numel() < part.numel():
            self._scratch = torch.empty(part.numel(), device=part.device)
        exact = self._scratch[: part.numel()].view(part.shape).copy_(part)
        if keep != 1:
            exact.mul_(keep)
        if change is not None:
            exact.add_(change, alpha=rate)
        noise = self._draw(part.numel()).view(part.shape)
        exact.view(torch.int32).add_(noise).add_(_HALF).bitwise_and_(_KEPT)
        part.copy_(exact)


def _on_cpu(seed: int) -> Callable[[int], Tensor]:
    """What draws int16 numbers, all of them equally likely: pieces of a pool from random places.

    A generator gives a number in the time of all else that rounding does. Two blocks of a matrix may so share numbers,
    at other places: each entry is rounded without bias all the same, and its next step draws a new pool.
    """
    chance = np.random.Generator(np.random.SFC64(seed))
    pool = _drawn(chance, POOL)

    def draw(count: int) -> Tensor:
        if count > POOL:
            return _drawn(chance, count)
        start = int(chance.integers(0, POOL - count + 1))
        return pool[start : start + count]

    return draw


def _drawn(chance: np.random.Generator, count: int) -> Tensor:
    words = chance.integers(0, 2**64, -(-count // 4), dtype=np.uint64)
    return torch.from_numpy(words.view(np.int16)[:count])


def _on_device(seed: int, device: torch.device) -> Callable[[int], Tensor]:
    chance = torch.Generator(device).manual_seed(seed)
    return lambda count: torch.randint(-_HALF, _HALF, (count,), generator=chance, device=device, dtype=torch.int32)
