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
from fedgalore.maths.compression import Sent, rounded, with_feedback
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
    leading = split(whole, rank, seed).left
    lefts = [rounded(left, codes["left"].quantization) for left in _columns(leading, rank)]
    read = _read(lefts, round.device)
    rights = [rounded(right, codes["right"].quantization) for right in best_right(read, whole).cpu().contiguous()]
    rest = remainder(whole, read, _read(rights, round.device), rank, seed)
    kept = zip(_columns(rest.left, rank), _columns(rest.right.mT, rank), strict=True)
    codes = residue(round.spec, targets[0])
    for target, left, right, (rest_left, rest_right) in zip(targets, lefts, rights, kept, strict=True):
        result.aggregate |= {f"{target.name}/left": left.wire, f"{target.name}/right": right.wire}
        result.residue |= {
            f"{target.name}/left": rounded(rest_left, codes["left"].quantization).wire,
            f"{target.name}/right": rounded(rest_right.mT.contiguous(), codes["right"].quantization).wire,
        }


def _times(rate: float, change: Tensor) -> Tensor:
    return change if rate == 1 else rate * change


def _columns(batch: Tensor, count: int) -> list[Tensor]:
    """Each of `(B, d, q)` on the CPU, with columns of zeros up to `count`, so that low ranks fill their places too."""
    return list(pad(batch, (0, count - batch.shape[-1])).cpu().contiguous())


def _read(factors: Sequence[Sent], device: torch.device) -> Tensor:
    """What the receivers read, as a batch."""
    return torch.stack([factor.tensor for factor in factors]).to(device)


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
