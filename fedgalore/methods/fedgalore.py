"""FedGaLore: local gradient subspaces, full-space aggregation, aligned optimizer states. arXiv 2602.01746.

Tensors are addressed by the names of `fedgalore.plan`; reading is a callable, so the server half works on
memory-mapped files in the coordinator and on dictionaries in the simulation, with the same bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from fedgalore.aggregate import Aggregate, apply_dense, apply_factors, mean_of_dense, mean_of_factors, truncate
from fedgalore.job_spec import FedGaLoreSpec, JobSpec, LocalSpec
from fedgalore.optim import Factor, GaLoreAdamW, SubspaceConfig
from fedgalore.plan import Dense, Target, TrainingPlan, bases_per_round
from fedgalore.projector import orient
from fedgalore.second_moment import SecondMomentSketch, carry, floored
from fedgalore.seeding import derive_seed
from fedgalore.shared_signal import extract

GROUP_BYTES = 64 * 2**20  # of the clients' tensors that are combined at once

Reader = Callable[[str], Tensor]


@dataclass(frozen=True)
class ClientTensors:
    """One client's update as the server sees it. Lists of these are sorted by client name before anything is summed."""

    client: str
    num_examples: int
    decay: float
    read: Reader


@dataclass
class GroupResult:
    """What a group of tensors becomes, by tensor name: new weights, what goes down, next state, residue kept."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    aggregate: dict[str, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)
    residue: dict[str, Tensor] = field(default_factory=dict)
    statistics: dict[str, list[float]] = field(default_factory=dict)


# --- client half ---------------------------------------------------------------------------------------------


def subspace_config(method: FedGaLoreSpec, local: LocalSpec) -> SubspaceConfig:
    return SubspaceConfig(
        learning_rate=local.learning_rate,
        betas=local.betas,
        eps=local.eps,
        weight_decay=local.weight_decay,
        scale=method.scale,
        update_proj_gap=method.update_proj_gap,
        prior_steps=method.prior_steps,
        update_clip=method.update_clip,
    )


def carried_state(plan: TrainingPlan, state: Mapping[str, Tensor] | None) -> dict[str, SecondMomentSketch]:
    """The aligned second moments of a state file, by target name."""
    if not state:
        return {}
    return {
        target.name: SecondMomentSketch(
            state[f"{target.name}/reference"], state[f"{target.name}/second_moment"], state[f"{target.name}/residual"]
        )
        for target in plan.targets
    }


def update_of(optimizer: GaLoreAdamW, plan: TrainingPlan, spec: JobSpec) -> dict[str, Tensor]:
    """The targets' part of an update: exact factors and the second-moment sketch."""
    tensors: dict[str, Tensor] = {}
    for target in plan.targets:
        factors = optimizer.factors(target.name)
        # a weight that saw no gradient has one stand-in basis, whatever the round's number
        empty = Factor(factors[-1].basis, torch.zeros_like(factors[-1].factor))
        factors += [empty] * (bases_per_round(spec) - len(factors))
        for j, factor in enumerate(factors):
            tensors[f"{target.name}/basis.{j}"] = factor.basis
            tensors[f"{target.name}/factor.{j}"] = factor.factor
        sketch = optimizer.sketch(target.name)
        tensors[f"{target.name}/second_moment"] = sketch.second_moment
        tensors[f"{target.name}/residual"] = sketch.residual
    return tensors


# --- server half ---------------------------------------------------------------------------------------------


def mixing_weights(clients: Sequence[ClientTensors]) -> Tensor:
    """`p_i = n_i / sum n`, `(M,)` float64."""
    counts = torch.tensor([client.num_examples for client in clients], dtype=torch.float64)
    return counts / counts.sum()


def mean_decay(clients: Sequence[ClientTensors], spec: JobSpec) -> float:
    """What the aggregate multiplies the old target weights by: `1 + server_lr sum_i p_i (decay_i - 1)`."""
    shares: list[float] = mixing_weights(clients).tolist()
    return 1 + spec.server.learning_rate * sum(p * (c.decay - 1) for p, c in zip(shares, clients, strict=True))


def groups(plan: TrainingPlan, clients: int, spec: JobSpec) -> Iterator[list[Target] | list[Dense]]:
    """The plan cut into batches of equal shape, each within `GROUP_BYTES` of client tensors if a matrix allows it."""
    by_shape = sorted(plan.targets, key=lambda t: (t.d, t.k, t.rank, t.name))
    for (d, k, rank), same in groupby(by_shape, key=lambda t: (t.d, t.k, t.rank)):
        matrix_bytes = 8 * (clients * bases_per_round(spec) * rank * (d + 2 * k) + d * k)
        size = max(1, GROUP_BYTES // matrix_bytes)
        alike = list(same)
        yield from (alike[start : start + size] for start in range(0, len(alike), size))
    for item in plan.dense:
        yield [item]


def aggregate_group(
    group: Sequence[Target] | Sequence[Dense],
    clients: Sequence[ClientTensors],
    weights: Reader,
    residue: Reader | None,
    spec: JobSpec,
    round_number: int,
    device: torch.device,
) -> GroupResult:
    """The server's step for one group; `clients` sorted by name, `weights` reads the global weights before it."""
    result = GroupResult()
    shares = mixing_weights(clients)
    targets = [item for item in group if isinstance(item, Target)]
    for item in group:
        if isinstance(item, Dense):
            changes = torch.stack([client.read(f"{item.name}/delta").to(device) for client in clients])
            change = (spec.server.learning_rate * mean_of_dense(changes, shares)).cpu()
            result.aggregate[f"{item.name}/delta"] = change
            result.weights[item.name] = apply_dense(weights(item.name), 1.0, change)
    if not targets:
        return result

    count = bases_per_round(spec)

    def gather(kind: str) -> Tensor:  # (M, B, ...)
        return torch.stack([torch.stack([c.read(f"{t.name}/{kind}") for t in targets]) for c in clients]).to(device)

    bases = torch.stack([gather(f"basis.{j}") for j in range(count)], dim=1)
    factors = torch.stack([gather(f"factor.{j}") for j in range(count)], dim=1)
    aggregate = mean_of_factors(bases, factors, shares)
    reference = aggregate.reference_basis(targets[0].rank)
    if spec.method.downlink_rank is not None:
        kept = None if residue is None else torch.stack([residue(t.name) for t in targets]).to(device)
        aggregate = truncate(aggregate, spec.method.downlink_rank, kept)
    _apply(aggregate, targets, weights, mean_decay(clients, spec), spec.server.learning_rate, result)

    if spec.method.state_sync != "reset":
        sketches = SecondMomentSketch(bases[:, -1], gather("second_moment"), gather("residual"))
        seed = derive_seed(spec.seed, "shared signal", round_number)
        _align(sketches, reference, shares, targets, spec.method.state_sync, seed, result)
    return result


def _apply(
    aggregate: Aggregate, targets: Sequence[Target], weights: Reader, decay: float, rate: float, result: GroupResult
) -> None:
    """New weights and what goes down: factors where they are smaller than the matrix, else the matrix's change."""
    left, right = aggregate.left.cpu(), (rate * aggregate.right).cpu()
    for index, target in enumerate(targets):
        old = weights(target.name)
        if aggregate.is_smaller_than_dense:
            new = apply_factors(orient(old), decay, left[index], right[index])
            result.weights[target.name] = orient_back(new, target)
            result.aggregate[f"{target.name}/left"] = left[index].contiguous()
            result.aggregate[f"{target.name}/right"] = right[index].contiguous()
        else:
            change = orient_back(left[index] @ right[index], target)
            result.weights[target.name] = apply_dense(old, decay, change)
            result.aggregate[f"{target.name}/dense"] = change
        if aggregate.residue is not None:
            result.residue[target.name] = aggregate.residue[index].cpu().contiguous()


def orient_back(matrix: Tensor, target: Target) -> Tensor:
    """An oriented `(d, k)` matrix in the weight's own shape, contiguous."""
    return (matrix.mT if target.tall else matrix).contiguous()


def _align(
    sketches: SecondMomentSketch,
    reference: Tensor,
    shares: Tensor,
    targets: Sequence[Target],
    sync: str,
    seed: int,
    result: GroupResult,
) -> None:
    """Points 3 to 5 of the server's round: states into the reference basis, AJIVE, aligned state with its floor.

    `sketches` are batched `(M, B, ...)`, `reference (B, d, r)`.
    """
    p = shares.to(reference.device)[:, None, None, None]
    blocks = carry(sketches, reference).double()  # (M, B, r, k)
    mean = (p * blocks).sum(0)
    aligned = mean
    if sync == "ajive":
        families = blocks.transpose(0, 1)
        signal = extract(families, seed)
        joint = signal.joint(families)
        aligned = (p.transpose(0, 1) * joint).sum(1)
        explained = joint.square().sum((1, 2, 3)) / families.square().sum((1, 2, 3)).clamp_min(1e-300)
        result.statistics["joint_rank"] = signal.joint_rank.tolist()
        result.statistics["explained_share"] = explained.tolist()
    second = floored(aligned, mean).float().cpu()
    residual = (p * sketches.residual.double()).sum(0).float().cpu()
    for index, target in enumerate(targets):
        result.state[f"{target.name}/reference"] = reference[index].cpu().contiguous()
        result.state[f"{target.name}/second_moment"] = second[index].contiguous()
        result.state[f"{target.name}/residual"] = residual[index].contiguous()
