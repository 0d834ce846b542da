"""A group's mean change on its way down: the server's rate, momentum, and the cut with error feedback.

Exact, a change goes down as factors where these are smaller than the matrix. Cut, its leading part goes down in
float16, and what that leaves out, rounding included, is the residue that the next round adds (ALGORITHM, "Server, one
round").
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedgalore.deltas import Lookup, orient_back
from fedgalore.maths.mean import Factors, truncate
from fedgalore.rounds import GroupResult, ServerRound, Shelf
from fedgalore.spec.layout import cut_rank
from fedgalore.spec.plan import Target, factors_are_smaller


def send_matrices(
    targets: Sequence[Target], changes: Sequence[Tensor], round: ServerRound, shelf: Shelf, result: GroupResult
) -> None:
    """Each target's mean change, float32 in the weight's own shape, times the server's rate."""
    for target, change in zip(targets, changes, strict=True):
        result.aggregate[f"{target.name}/dense"] = (round.spec.server.learning_rate * change).cpu()


def send_factors(
    targets: Sequence[Target], change: Factors, round: ServerRound, shelf: Shelf, result: GroupResult
) -> None:
    """The mean change of targets of equal shape, held as factors: exact, or cut where the job's layout says so."""
    rank, rate = cut_rank(round.spec, targets[0]), round.spec.server.learning_rate
    if rank is None:
        put_factors(targets, change, rate, result)
        return
    whole = rate * (change.left.double() @ change.right.double())
    if (residue := _residue(targets, shelf.residue)) is not None:
        whole += residue.to(whole.device)
    _put_cut(targets, whole, rank, result)


def put_factors(targets: Sequence[Target], change: Factors, rate: float, result: GroupResult) -> None:
    """`rate` times a change exactly: as factors where they are smaller, else as a matrix."""
    for index, target in enumerate(targets):
        left, right = change.left[index].cpu(), (rate * change.right[index]).cpu()
        if factors_are_smaller(target.d, target.k, left.shape[1]):
            result.aggregate[f"{target.name}/left"] = left.contiguous()
            result.aggregate[f"{target.name}/right"] = right.contiguous()
        else:
            result.aggregate[f"{target.name}/dense"] = orient_back(left @ right, target)


def _put_cut(targets: Sequence[Target], whole: Tensor, rank: int, result: GroupResult) -> None:
    cut, residue = truncate(whole, rank)
    for index, target in enumerate(targets):
        result.aggregate[f"{target.name}/left"] = cut.left[index].cpu().contiguous()
        result.aggregate[f"{target.name}/right"] = cut.right[index].cpu().contiguous()
        result.residue[target.name] = residue[index].cpu().contiguous()


def _residue(targets: Sequence[Target], residue: Lookup) -> Tensor | None:
    """What earlier rounds left out, `(B, d, k)`; None in the first round."""
    kept = [tensor for target in targets if (tensor := residue(target.name)) is not None]
    return torch.stack(kept) if kept else None
