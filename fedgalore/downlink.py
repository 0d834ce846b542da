"""A group's mean change on its way down: the server's rate, the cut with error feedback, and the code.

Exact, a change goes down as factors where these are smaller than the matrix. Cut, its leading part goes down in
`wire.bits`, and what that leaves out, rounding included, is the residue that the next round adds (ALGORITHM, "The
wire"). A mean stays in factors all the way.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from fedgalore.deltas import Lookup, orient_back, together
from fedgalore.maths.compression import encoded_together, rounded, rounded_together, with_feedback
from fedgalore.maths.factors import ThinSum, best_right, remainder, split
from fedgalore.maths.mean import Factors, Term, Terms
from fedgalore.maths.quantization import told_by
from fedgalore.maths.seeding import derive_seed
from fedgalore.rounds import GroupResult, ServerRound, Shelf
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import cut, cut_rank, delta, residue, residue_of
from fedgalore.spec.plan import Dense, Target, factors_are_smaller
from fedgalore.spec.quantization import Quantization


def send_matrices(
    targets: Sequence[Target], changes: Sequence[Tensor], round: ServerRound, result: GroupResult
) -> None:
    """Each target's mean change, float32 in the weight's own shape, times the server's rate."""
    for target, change in zip(targets, changes, strict=True):
        result.aggregate[f"{target.name}/dense"] = _times(round.spec.server.learning_rate, change).cpu()


def send_factors(
    targets: Sequence[Target], change: Factors | Terms, round: ServerRound, shelf: Shelf, result: GroupResult
) -> None:
    """The mean change of targets of equal shape, in factors: exact, or cut where it comes as terms."""
    rank, rate = cut_rank(round.spec, targets[0]), round.spec.server.learning_rate
    if isinstance(change, Factors):
        put_factors(targets, change, rate, result)
    elif rank is not None:
        left_out = _left_out(targets, round.spec, shelf.residue, round.device)
        _put_cut(targets, ThinSum(Terms([*change.times(rate).terms, *left_out])), rank, round, result)


def send_delta(item: Dense, change: Tensor, round: ServerRound, shelf: Shelf, result: GroupResult) -> None:
    """The mean change of a weight that is sent whole, float32, times the server's rate."""
    change = _times(round.spec.server.learning_rate, change).cpu()
    code = residue_of(round.spec, item).quantization
    sent, left_out = with_feedback(change, _held(shelf.residue, item.name, code), delta(round.spec, item).quantization)
    result.aggregate[f"{item.name}/delta"] = sent
    if left_out is not None:
        result.residue[item.name] = rounded(left_out, code).wire


def put_factors(targets: Sequence[Target], change: Factors, rate: float, result: GroupResult) -> None:
    """`rate` times a change exactly: as factors where they are smaller, else as a matrix."""
    for index, target in enumerate(targets):
        left, right = change.left[index].cpu(), (rate * change.right[index]).cpu()
        if factors_are_smaller(target.d, target.k, left.shape[1]):
            result.aggregate[f"{target.name}/left"] = left.contiguous()
            result.aggregate[f"{target.name}/right"] = right.contiguous()
        else:
            result.aggregate[f"{target.name}/dense"] = orient_back(left @ right, target)


def _put_cut(targets: Sequence[Target], whole: ThinSum, rank: int, round: ServerRound, result: GroupResult) -> None:
    """The leading part of `whole` into the aggregate, and the leading part of what that leaves out into the residue."""
    codes = cut(round.spec, targets[0])
    seed = derive_seed(round.spec.seed, "downlink", round.number)
    left = rounded_together(_padded(split(whole, rank, seed).left, rank), codes["left"].quantization)
    right = rounded_together(best_right(left.tensor, whole), codes["right"].quantization)
    rest = remainder(whole, left.tensor, right.tensor, rank, seed)
    _put(targets, left.wire, right.wire, result.aggregate)
    codes = residue(round.spec, targets[0])
    rest_left = encoded_together(_padded(rest.left, rank), codes["left"].quantization)
    rest_right = encoded_together(_padded(rest.right.mT, rank).mT.contiguous(), codes["right"].quantization)
    _put(targets, rest_left, rest_right, result.residue)


def _put(targets: Sequence[Target], left: Tensor, right: Tensor, part: dict[str, Tensor]) -> None:
    """Factors as they travel, batches of one of each target, into a part of the version."""
    for target, one_left, one_right in zip(targets, left.cpu(), right.cpu(), strict=True):
        part |= {f"{target.name}/left": one_left, f"{target.name}/right": one_right}


def _times(rate: float, change: Tensor) -> Tensor:
    return change if rate == 1 else rate * change


def _padded(batch: Tensor, count: int) -> Tensor:
    """`(B, d, q)` with columns of zeros up to `count`, so that low ranks fill their places too."""
    return pad(batch, (0, count - batch.shape[-1])) if batch.shape[-1] < count else batch


def _left_out(targets: Sequence[Target], spec: JobSpec, kept: Lookup, device: torch.device) -> list[Term]:
    """What earlier rounds left out, as factors `(B, d, c)` and `(B, c, k)`; none in the first round."""
    codes = residue(spec, targets[0])
    left, right = (
        [data for target in targets if (data := kept(f"{target.name}/{side}")) is not None]
        for side in ("left", "right")
    )
    if not left:
        return []
    return [Term(together(left, codes["left"], device), together(right, codes["right"], device))]


def _held(kept: Lookup, name: str, code: Quantization | None) -> Tensor | None:
    """A tensor of the residue as float32; None in the first round."""
    data = kept(name)
    return None if data is None else told_by(data, code)
