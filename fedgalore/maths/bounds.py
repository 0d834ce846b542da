"""What no number of a version exceeds. Whatever is written is looked at: one NaN would be in every later version.

An honest job stays far below. Weights of models that work are below 100 or so; what is larger than `LARGEST` is no
training, and a download in float16 could not hold twice as much.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor

LARGEST: Final = 2.0**15  # of a trained weight: half of what float16 holds
WIDEST: Final = 2.0**30  # of running statistics and counts: int32 holds it
FARTHEST: Final = 2.0**30  # of all else; roots of second moments are no larger than gradients
CALM: Final = 2.0**5  # what a round moves a weight by at most before the weight itself is looked at


class OutOfBounds(ArithmeticError):
    """A tensor is not finite, or far too large; the message names it."""


def check(name: str, tensor: Tensor, most: float = FARTHEST) -> None:
    """Looks at a tensor of any shape and floating type that is about to be written.

    Raises:
        OutOfBounds: it holds NaN, infinite values, or one above `most` in absolute value.
    """
    size = largest(tensor)
    if not size <= most:  # NaN neither
        raise OutOfBounds(f"{name} holds {described(size)}; {most:g} is the most")


def largest(tensor: Tensor) -> float:
    """In absolute value, 0 of an empty tensor; NaN where there is one."""
    if not tensor.numel():
        return 0.0
    low, high = torch.aminmax(tensor)
    return float(torch.maximum(-low, high))


def largest_of_product(left: Tensor, right: Tensor) -> float:
    """A bound of the largest entry of `left (d, q) @ right (q, k)` without the product, by Cauchy and Schwarz.

    It is at most `sqrt(d)` times too large where the columns of `left` are orthonormal; infinite where float32 cannot
    hold the squares.
    """
    rows, columns = left.square().sum(-1), right.square().sum(-2)
    return math.sqrt(largest(rows)) * math.sqrt(largest(columns))


def described(size: float) -> str:
    """A largest value in words."""
    return f"values as large as {size:.3g}" if math.isfinite(size) else "NaN or infinite values"
