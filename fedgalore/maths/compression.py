"""A client's change in few bytes, with error feedback: what does not fit goes with the client's next update.

PowerSGD, https://arxiv.org/abs/1905.13727, has both ideas: low-rank factors, and a residue that is not lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedgalore.maths.projector import project, project_back, range_basis


@dataclass(frozen=True)
class Compressed:
    """`change = left @ right + residue` to float32 rounding: `left (d, q)` and `right (q, k)` float16, `residue (d, k)`
    float32. The columns of `left` are orthonormal to float16 rounding, those that carry most of the change first.
    """

    left: Tensor
    right: Tensor
    residue: Tensor


def compress(change: Tensor, rank: int, generator: torch.Generator) -> Compressed:
    """The leading part of `change (d, k)`; rounding to float16 is part of what the residue holds."""
    left = range_basis(change, rank, generator).half()
    wide = left.float()
    right = project(wide, change).half()
    return Compressed(left, right, change - project_back(wide, right.float()))
