"""The server half of FedGaLore: the mean change in the full space, aligned states. ALGORITHM, "Server, one round"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedgalore.maths.mean import squared_norm_of_product
from fedgalore.maths.second_moment import SecondMomentSketch, carry, floored, of_equal_size
from fedgalore.maths.seeding import derive_seed
from fedgalore.maths.shared_signal import extract
from fedgalore.methods.fedgalore.layout import method_of
from fedgalore.methods.fedgalore.travel import UNPACKING, Unpacking
from fedgalore.methods.halves import MeanChange, ServerHalf
from fedgalore.rounds import ClientTensors, GroupResult, ServerRound
from fedgalore.spec.plan import Target


class FedGaLoreServer(ServerHalf):
    def aggregate(self, targets: Sequence[Target], round: ServerRound, result: GroupResult) -> MeanChange | None:
        method = method_of(round.spec)
        form = UNPACKING[method.form](targets, round)
        pairs = [form.pairs(client) for client in round.clients]
        trained = any(pairs)  # not in the round that only sketches
        change = form.settled(round.change_of_factors(targets, pairs)) if trained else None
        reference = form.next_basis()
        if reference is not None:
            _put(targets, result, reference=reference.cpu())
        elif change is not None:
            reference = change.reference_basis(targets[0].rank)
        if method.sends_state and trained and reference is not None:
            _align(form, [of_client[-1][0] for of_client in pairs], reference, result)
        return change

    def squared_norm(self, target: Target, round: ServerRound, client: ClientTensors) -> float:
        pairs = UNPACKING[method_of(round.spec).form]([target], round).pairs(client)
        if not pairs:
            return 0.0
        left, right = torch.cat([pair[0] for pair in pairs], -1), torch.cat([pair[1] for pair in pairs], -2)
        return float(squared_norm_of_product(left, right))


def _align(form: Unpacking, bases: Sequence[Tensor], reference: Tensor, result: GroupResult) -> None:
    """Points 3 to 5 of the server's round: states into the reference basis, AJIVE, aligned state with its floor.

    `bases`: each client's last one, `(B, d, r_i)` or wider; `reference (B, d, r)`.
    """
    method = method_of(form.round.spec)
    sketches = []
    for client, basis in zip(form.round.clients, bases, strict=True):
        second = form.gather(client, "rms").square()
        sketches.append(SecondMomentSketch(basis[..., : second.shape[-2]], second, form.gather(client, "residual")))
    if method.state_scale == "median":
        sketches = of_equal_size(sketches)
    blocks = torch.stack([carry(sketch, reference) for sketch in sketches]).double()  # (M, B, r, k)
    mean = form.round.state_of(blocks)
    aligned = _joint(blocks, form.round, result) if method.state_sync == "ajive" else mean
    residual = form.round.state_of(torch.stack([sketch.residual for sketch in sketches]).double())
    _put(
        form.targets,
        result,
        reference=reference.cpu(),
        second_moment=floored(aligned, mean).float().cpu(),
        residual=residual.float().cpu(),
    )


def _joint(blocks: Tensor, round: ServerRound, result: GroupResult) -> Tensor:
    """What the clients' second moments `(M, B, r, k)` share, combined: `(B, r, k)` float64."""
    families = blocks.transpose(0, 1)
    signal = extract(families, derive_seed(round.spec.seed, "shared signal", round.number))
    joint = signal.joint(families)
    explained = joint.square().sum((1, 2, 3)) / families.square().sum((1, 2, 3)).clamp_min(1e-300)
    result.statistics["joint_rank"] = signal.joint_rank.tolist()
    result.statistics["explained_share"] = explained.tolist()
    return round.state_of(joint.transpose(0, 1))


def _put(targets: Sequence[Target], result: GroupResult, **parts: Tensor) -> None:
    """Writes tensors of the next state, a batch `(B, ...)` each, under their targets' names."""
    for index, target in enumerate(targets):
        for part, tensor in parts.items():
            result.state[f"{target.name}/{part}"] = tensor[index].contiguous()
