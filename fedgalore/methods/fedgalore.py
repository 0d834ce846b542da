"""FedGaLore: gradient subspaces, full-space aggregation, aligned optimizer states. arXiv 2602.01746."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from fedgalore.maths.compression import Compressed, compress
from fedgalore.maths.mean import Aggregate, squared_norm_of_product, truncate
from fedgalore.maths.optim import Factor, GaLoreAdamW, SharedBasis, SubspaceConfig
from fedgalore.maths.projector import leading_left_vectors, orient
from fedgalore.maths.second_moment import SecondMomentSketch, carry, floored, moved_to, of_equal_size
from fedgalore.maths.seeding import derive_seed
from fedgalore.maths.shared_signal import extract
from fedgalore.methods.base import (
    ClientTensors,
    GroupResult,
    LocalTraining,
    Method,
    Round,
    Start,
    change_in,
    orient_back,
    put_change,
)
from fedgalore.model.task import TaskModel
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import bases_per_round, downlink_rank_at, sketch_width, uplink_rank_at
from fedgalore.spec.method import FedGaLoreSpec
from fedgalore.spec.plan import Target, TrainingPlan, rank_at


class FedGaLore(Method):
    @contextmanager
    def train(
        self, task: TaskModel, spec: JobSpec, client: str, round_number: int, start: Start
    ) -> Iterator[LocalTraining]:
        method = _method(spec)
        state = {name: tensor.to(task.device) for name, tensor in start.state.items()}
        own = start.own if method.state_sync == "local" else state
        weights = task.targets()
        optimizer = GaLoreAdamW(
            {t.name: (weights[t.name][0], rank_at(method, t, client)) for t in task.plan.targets},
            subspace_config(spec),
            carried_state(task.plan, own, task.device),
            derive_seed(spec.seed, "subspaces", client, round_number),
            shared_bases(task.plan, spec, round_number, state, task.device) if method.basis == "shared" else None,
        )
        with optimizer:
            yield _SubspaceTraining(optimizer, task, spec, client, round_number, start)

    def aggregate(self, targets: Sequence[Target], this: Round) -> GroupResult:
        method = _method(this.spec)
        result = GroupResult()
        changes = [_factors(targets, this, client) for client in this.clients]
        reference = None
        trained = any(changes)  # not in the round that only sketches
        if trained:
            change = this.change_of_factors(targets, changes)
            if method.basis == "shared":  # equal bases: what lies beyond the rank is rounding
                change = change.leading(targets[0].rank)
            reference = change.reference_basis(targets[0].rank)
            _put_down(targets, this, change, result)
        if method.basis == "shared":
            reference = _next_shared_basis(targets, this)
            for index, target in enumerate(targets):
                result.state[f"{target.name}/reference"] = reference[index].cpu().contiguous()
        if method.state_sync in ("ajive", "average") and trained:
            assert reference is not None
            _align(targets, this, [own[-1][0] for own in changes], reference, result)
        return result

    def squared_norm(self, target: Target, this: Round, client: ClientTensors) -> float:
        pairs = _factors([target], this, client)
        if not pairs:
            return 0.0
        left, right = torch.cat([pair[0] for pair in pairs], -1), torch.cat([pair[1] for pair in pairs], -2)
        return float(squared_norm_of_product(left, right))


def _method(spec: JobSpec) -> FedGaLoreSpec:
    assert isinstance(spec.method, FedGaLoreSpec)
    return spec.method


# --- client half ---------------------------------------------------------------------------------------------


def subspace_config(spec: JobSpec) -> SubspaceConfig:
    method, local = _method(spec), spec.local
    return SubspaceConfig(
        learning_rate=local.learning_rate,
        betas=local.betas,
        eps=local.eps,
        weight_decay=local.weight_decay,
        scale=method.scale,
        complement=method.outside,
        basis_pool=method.basis_pool,
        update_proj_gap=method.update_proj_gap,
        prior_steps=method.prior_steps,
        update_clip=method.update_clip,
    )


def carried_state(
    plan: TrainingPlan, state: Mapping[str, Tensor], device: torch.device
) -> dict[str, SecondMomentSketch]:
    """The second moments to start from, by target name; those of a state file or those a client kept itself."""
    parts = ("reference", "second_moment", "residual")
    return {
        target.name: SecondMomentSketch(*(state[f"{target.name}/{part}"].to(device) for part in parts))
        for target in plan.targets
        if f"{target.name}/second_moment" in state
    }


def shared_bases(
    plan: TrainingPlan, spec: JobSpec, round_number: int, state: Mapping[str, Tensor], device: torch.device
) -> dict[str, SharedBasis]:
    """The round's bases, from the state, and the test matrices of the next ones, from the job's seed."""
    shared = {}
    for target in plan.targets:
        generator = torch.Generator().manual_seed(derive_seed(spec.seed, "range sketch", round_number, target.name))
        test_matrix = torch.randn(target.k, sketch_width(target), generator=generator)
        shared[target.name] = SharedBasis(state.get(f"{target.name}/reference"), test_matrix.to(device))
    return shared


class _SubspaceTraining:
    def __init__(
        self, optimizer: GaLoreAdamW, task: TaskModel, spec: JobSpec, client: str, round_number: int, start: Start
    ) -> None:
        self._optimizer = optimizer
        self._task = task
        self._spec = spec
        self._client = client
        self._round_number = round_number
        self._start = start

    @property
    def decay(self) -> float:
        return self._optimizer.decay

    def step(self) -> None:
        self._optimizer.step()

    def tensors(self) -> dict[str, Tensor]:
        """What tells the change, and what the job wants to know of the optimizer's state."""
        method = _method(self._spec)
        tensors: dict[str, Tensor] = {}
        for target in self._task.plan.targets:
            name = target.name
            if method.compresses:
                sent = self._compressed[name]
                tensors |= {f"{name}/left": sent.left, f"{name}/right": sent.right}
            if method.basis == "shared":
                tensors[f"{name}/sketch"] = self._optimizer.range_sketch(name)
                if self._round_number == 1:
                    continue
            if not method.compresses:
                for j, factor in enumerate(self._factors(target)):
                    if method.basis == "local":
                        tensors[f"{name}/basis.{j}"] = factor.basis
                    tensors[f"{name}/factor.{j}"] = factor.factor
            if method.state_sync in ("ajive", "average"):
                sketch = self._optimizer.sketch(name)
                if method.compresses:
                    sketch = moved_to(sent.left[:, : sketch.basis.shape[1]].float(), sketch)
                # float16 holds the root down to gradients of 6e-8, near Adam's own eps; V it could not
                tensors[f"{name}/rms"] = sketch.second_moment.sqrt().half()
                tensors[f"{name}/residual"] = sketch.residual
        return tensors

    @cached_property
    def _compressed(self) -> dict[str, Compressed]:
        """The round's whole change of each target, with what earlier updates left out."""
        method = _method(self._spec)
        compressed = {}
        for target in self._task.plan.targets:
            name, weight = target.name, self._task.targets()[target.name][0].detach()
            change = orient(weight - self.decay * self._start.weights[name].to(weight.device))
            left_out = self._start.own.get(f"{name}/residue")
            if left_out is not None:
                change = change + self.decay * left_out.to(weight.device)
            seed = derive_seed(self._spec.seed, "uplink", self._client, self._round_number, name)
            rank = uplink_rank_at(method, target, self._client)
            found = compress(change, rank, torch.Generator().manual_seed(seed))
            compressed[name] = replace(found, residue=found.residue.cpu())  # full-size: not all at once on a GPU
        return compressed

    def _factors(self, target: Target) -> list[Factor]:
        factors = self._optimizer.factors(target.name)
        # a weight that saw no gradient has one stand-in basis, whatever the round's number
        empty = Factor(factors[-1].basis, torch.zeros_like(factors[-1].factor))
        return factors + [empty] * (bases_per_round(self._spec) - len(factors))

    def kept(self) -> dict[str, Tensor]:
        method = _method(self._spec)
        kept: dict[str, Tensor] = {}
        for target in self._task.plan.targets:
            if method.state_sync == "local":
                sketch = self._optimizer.sketch(target.name)
                kept[f"{target.name}/reference"] = sketch.basis
                kept[f"{target.name}/second_moment"] = sketch.second_moment
                kept[f"{target.name}/residual"] = sketch.residual
            if method.compresses:
                kept[f"{target.name}/residue"] = self._compressed[target.name].residue
        return kept


# --- server half ---------------------------------------------------------------------------------------------


def _put_down(targets: Sequence[Target], this: Round, change: Aggregate, result: GroupResult) -> None:
    """The clients' mean change with momentum, exact or cut to the downlink's rank with error feedback."""
    method, rate = _method(this.spec), this.spec.server.learning_rate
    rank = downlink_rank_at(method, targets[0])
    if rank is None and not method.momentum:
        for index, target in enumerate(targets):
            put_change(target, change, index, rate, result)
        return
    whole = rate * (change.left.double() @ change.right.double())
    for index, target in enumerate(targets):
        last = change_in(target, this.last)
        if last is not None:
            whole[index] += method.momentum * orient(last).to(this.device)
    if rank is None:
        for index, target in enumerate(targets):
            result.aggregate[f"{target.name}/dense"] = orient_back(whole[index].float().cpu(), target)
        return
    if this.residue is not None:
        whole += torch.stack([this.residue(target.name) for target in targets]).to(this.device)
    cut, residue = truncate(whole, rank)
    for index, target in enumerate(targets):
        result.aggregate[f"{target.name}/left"] = cut.left[index].cpu().contiguous()
        result.aggregate[f"{target.name}/right"] = cut.right[index].cpu().contiguous()
        result.residue[target.name] = residue[index].cpu().contiguous()


def _gather(this: Round, client: ClientTensors, targets: Sequence[Target], suffix: str) -> Tensor:
    """One client's tensors of a group as a batch `(B, ...)`, float32."""
    return torch.stack([client.read(f"{target.name}/{suffix}") for target in targets]).to(this.device).float()


def _factors(targets: Sequence[Target], this: Round, client: ClientTensors) -> list[tuple[Tensor, Tensor]]:
    """A client's change as pairs `(B, d, r)`, `(B, r, k)`, that of the last basis last; none in a round of sketches."""
    method = _method(this.spec)
    if method.compresses:
        return [(_gather(this, client, targets, "left"), _gather(this, client, targets, "right"))]
    if method.basis == "local":
        return [
            (_gather(this, client, targets, f"basis.{j}"), _gather(this, client, targets, f"factor.{j}"))
            for j in range(bases_per_round(this.spec))
        ]
    if this.number == 1:
        return []
    assert this.state is not None
    shared = torch.stack([this.state(f"{target.name}/reference") for target in targets]).to(this.device)
    return [(shared, _gather(this, client, targets, "factor.0"))]


def _next_shared_basis(targets: Sequence[Target], this: Round) -> Tensor:
    """`(B, d, r)`: top left singular vectors of `sum_i p_i Y_i`, a range finder of the clients' mean gradient."""
    total = sum(
        share * _gather(this, client, targets, "sketch").double()
        for client, share in zip(this.clients, this.shares.tolist(), strict=True)
    )
    assert isinstance(total, Tensor)
    return leading_left_vectors(total, targets[0].rank).float()


def _align(
    targets: Sequence[Target], this: Round, bases: Sequence[Tensor], reference: Tensor, result: GroupResult
) -> None:
    """Points 3 to 5 of the server's round: states into the reference basis, AJIVE, aligned state with its floor.

    `bases`: each client's last one, `(B, d, r_i)` or wider; `reference (B, d, r)`.
    """
    sketches = []
    for client, own in zip(this.clients, bases, strict=True):
        second = _gather(this, client, targets, "rms").square()
        basis = own[..., : second.shape[-2]]
        sketches.append(SecondMomentSketch(basis, second, _gather(this, client, targets, "residual")))
    if _method(this.spec).state_scale == "median":
        sketches = of_equal_size(sketches)
    blocks = torch.stack([carry(sketch, reference) for sketch in sketches]).double()  # (M, B, r, k)
    mean = this.state_of(blocks)
    aligned = mean
    if _method(this.spec).state_sync == "ajive":
        families = blocks.transpose(0, 1)
        signal = extract(families, derive_seed(this.spec.seed, "shared signal", this.number))
        joint = signal.joint(families)
        aligned = this.state_of(joint.transpose(0, 1))
        explained = joint.square().sum((1, 2, 3)) / families.square().sum((1, 2, 3)).clamp_min(1e-300)
        result.statistics["joint_rank"] = signal.joint_rank.tolist()
        result.statistics["explained_share"] = explained.tolist()
    start = floored(aligned, mean).float().cpu()
    residual = this.state_of(torch.stack([sketch.residual for sketch in sketches]).double()).float().cpu()
    for index, target in enumerate(targets):
        result.state[f"{target.name}/reference"] = reference[index].cpu().contiguous()
        result.state[f"{target.name}/second_moment"] = start[index].contiguous()
        result.state[f"{target.name}/residual"] = residual[index].contiguous()
