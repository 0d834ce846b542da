"""The server half of FedGaLore: the mean change in the full space, aligned states. ALGORITHM, "Server, one round"."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedgalore.alignment import Alignment
from fedgalore.maths.compression import rounded
from fedgalore.maths.factors import leading_basis
from fedgalore.maths.second_moment import SecondMomentSketch, carry, floored, of_equal_size
from fedgalore.maths.seeding import derive_seed
from fedgalore.maths.shared_signal import extract
from fedgalore.methods.fedgalore.layout import method_of, reference
from fedgalore.methods.fedgalore.travel import UNPACKING, Unpacking, basis_in, told
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
        basis = form.next_basis()
        if basis is None and change is not None and method.sends_state:
            basis = leading_basis(change, targets[0].rank, derive_seed(round.spec.seed, "reference", round.number))
        if basis is not None:
            basis = _put_reference(form, basis, result)
            if method.sends_state and trained:
                _align(form, [of_client[-1][0] for of_client in pairs], basis, result)
        return change

    def squared_norm(self, target: Target, round: ServerRound, client: ClientTensors) -> float:
        form = UNPACKING[method_of(round.spec).form]([target], round)
        return round.squared_norm_of_factors(target, form.pairs(client))


def _put_reference(form: Unpacking, basis: Tensor, result: GroupResult) -> Tensor:
    """Writes the basis `(B, d, r)` of the next state; returns it as the clients read it."""
    read = []
    for target, matrix in zip(form.targets, basis.cpu(), strict=True):
        sent = rounded(matrix.contiguous(), reference(form.round.spec, target)["reference"].quantization)
        result.state[f"{target.name}/reference"] = sent.wire
        read.append(basis_in(sent.tensor) if method_of(form.round.spec).basis == "local" else sent.tensor)
    return torch.stack(read).to(basis.device)


def _align(form: Unpacking, lefts: Sequence[Tensor], basis: Tensor, result: GroupResult) -> None:
    """Points 3 to 5 of the server's round: states into the reference basis, AJIVE, aligned state with its floor.

    `lefts`: each client's last left factor, `(B, d, r_i)` or wider; `basis (B, d, r)`: the reference.
    """
    method = method_of(form.round.spec)
    sketches = []
    for client, left in zip(form.round.clients, lefts, strict=True):
        second = form.gather(client, "rms").square()
        own = left[..., : second.shape[-2]]
        if method.form == "leading part":
            own = basis_in(own)
        sketches.append(SecondMomentSketch(own, second, form.gather(client, "residual").square()))
    if method.state_scale == "median":
        sketches = of_equal_size(sketches)
    blocks = torch.stack([carry(sketch, basis) for sketch in sketches]).double()  # (M, B, r, k)
    mean = form.round.state_of(blocks)
    aligned = _joint(blocks, form, result) if method.state_sync == "ajive" else mean
    residual = form.round.state_of(torch.stack([sketch.residual for sketch in sketches]).double())
    moments = zip(floored(aligned, mean).float().cpu(), residual.float().cpu(), strict=True)
    for target, (moment, outside) in zip(form.targets, moments, strict=True):
        sent = told(form.round.spec, target, moment, outside)
        result.state |= {f"{target.name}/{suffix}": tensor for suffix, tensor in sent.items()}


def _joint(blocks: Tensor, form: Unpacking, result: GroupResult) -> Tensor:
    """What the clients' second moments `(M, B, r, k)` share, combined: `(B, r, k)` float64."""
    families = blocks.transpose(0, 1)
    signal = extract(families, derive_seed(form.round.spec.seed, "shared signal", form.round.number))
    joint = signal.joint(families)
    shared, whole = joint.square().sum((2, 3)), families.square().sum((2, 3)).clamp_min(1e-300)
    result.statistics["joint_rank"] = signal.joint_rank.tolist()
    result.statistics["explained_share"] = (shared.sum(1) / whole.sum(1)).tolist()
    names, shares = [client.client for client in form.round.clients], (shared / whole).tolist()
    for target, rank, of_clients in zip(form.targets, signal.joint_rank.tolist(), shares, strict=True):
        result.alignment[target.name] = Alignment(rank, dict(zip(names, of_clients, strict=True)))
    return form.round.state_of(joint.transpose(0, 1))
