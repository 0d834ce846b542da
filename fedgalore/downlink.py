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

from fedgalore.deltas import Lookup, orient_back
from fedgalore.maths.compression import Sent, rounded, with_feedback
from fedgalore.maths.factors import Cut, split
from fedgalore.maths.mean import Factors, stacked
from fedgalore.maths.seeding import derive_seed
from fedgalore.rounds import GroupResult, ServerRound, Shelf
from fedgalore.spec.layout import cut, cut_rank, delta
from fedgalore.spec.plan import Dense, Target, factors_are_smaller


def send_matrices(
    targets: Sequence[Target], changes: Sequence[Tensor], round: ServerRound, result: GroupResult
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
    parts = [(change.left, rate * change.right), *_left_out(targets, shelf.residue, round.device)]
    lefts, rights = zip(*parts, strict=True)
    _put_cut(targets, stacked(lefts, rights, [1.0] * len(parts)), rank, round, result)


def send_delta(item: Dense, change: Tensor, round: ServerRound, shelf: Shelf, result: GroupResult) -> None:
    """The mean change of a weight that is sent whole, float32, times the server's rate."""
    change = (round.spec.server.learning_rate * change).cpu()
    sent, left_out = with_feedback(change, shelf.residue(item.name), delta(round.spec, item).quantization)
    result.aggregate[f"{item.name}/delta"] = sent
    if left_out is not None:
        result.residue[item.name] = left_out


def put_factors(targets: Sequence[Target], change: Factors, rate: float, result: GroupResult) -> None:
    """`rate` times a change exactly: as factors where they are smaller, else as a matrix."""
    for index, target in enumerate(targets):
        left, right = change.left[index].cpu(), (rate * change.right[index]).cpu()
        if factors_are_smaller(target.d, target.k, left.shape[1]):
            result.aggregate[f"{target.name}/left"] = left.contiguous()
            result.aggregate[f"{target.name}/right"] = right.contiguous()
        else:
            result.aggregate[f"{target.name}/dense"] = orient_back(left @ right, target)


def _put_cut(targets: Sequence[Target], whole: Factors, rank: int, round: ServerRound, result: GroupResult) -> None:
    """The leading part of `whole` into the aggregate, and the leading part of what that leaves out into the residue."""
    codes = cut(round.spec, targets[0])
    found = split(whole.left, whole.right, rank, seed=derive_seed(round.spec.seed, "downlink", round.number))
    lefts = [rounded(left, codes["left"].quantization) for left in _columns(found.left, rank)]
    leading = Cut.of(_read(lefts, whole), found.span, whole.left, whole.right)
    rights = [rounded(right, codes["right"].quantization) for right in leading.right.cpu().contiguous()]
    residue = leading.residue(_read(rights, whole), rank)
    kept = zip(_columns(residue.left, rank), _columns(residue.right.mT, rank), strict=True)
    for target, left, right, (rest_left, rest_right) in zip(targets, lefts, rights, kept, strict=True):
        result.aggregate |= {f"{target.name}/left": left.wire, f"{target.name}/right": right.wire}
        result.residue |= {f"{target.name}/left": rest_left, f"{target.name}/right": rest_right.mT.contiguous()}


def _columns(batch: Tensor, count: int) -> list[Tensor]:
    """Each of `(B, d, q)` on the CPU, with columns of zeros up to `count`, so that low ranks fill their places too."""
    return list(pad(batch, (0, count - batch.shape[-1])).cpu().contiguous())


def _read(factors: Sequence[Sent], whole: Factors) -> Tensor:
    """What the receivers read, as a batch."""
    return torch.stack([factor.tensor for factor in factors]).to(whole.left.device)


def _left_out(targets: Sequence[Target], residue: Lookup, device: torch.device) -> list[tuple[Tensor, Tensor]]:
    """What earlier rounds left out, as factors `(B, d, c)` and `(B, c, k)`; none in the first round."""
    lefts, rights = ([residue(f"{target.name}/{side}") for target in targets] for side in ("left", "right"))
    left, right = ([tensor for tensor in side if tensor is not None] for side in (lefts, rights))
    return [(torch.stack(left).to(device), torch.stack(right).to(device))] if left else []
