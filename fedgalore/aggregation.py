"""A round's updates into the next model version, for any method, group of tensors by group of tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from math import inf, prod, sqrt
from statistics import median

from torch import Tensor

from fedgalore.maths.mean import apply_dense
from fedgalore.maths.privacy import epsilon
from fedgalore.methods import method_of
from fedgalore.methods.base import GroupResult, Round
from fedgalore.spec.job import JobSpec
from fedgalore.spec.layout import update_tensors
from fedgalore.spec.plan import Dense, Target, TrainingPlan

GROUP_BYTES = 64 * 2**20  # of the clients' tensors that are combined at once


def groups(plan: TrainingPlan, clients: Sequence[str], spec: JobSpec) -> Iterator[list[Target] | list[Dense]]:
    """The plan cut into batches of equal shape, each within `GROUP_BYTES` of client tensors if a matrix allows it."""
    by_shape = sorted(plan.targets, key=lambda t: (t.d, t.k, t.rank, t.name))
    for (d, k, _), same in groupby(by_shape, key=lambda t: (t.d, t.k, t.rank)):
        alike = list(same)
        one = TrainingPlan((alike[0],), ())
        sent = sum(prod(tensor.shape) for client in clients for tensor in update_tensors(spec, one, client, 2).values())
        whole = d * k * (len(clients) if spec.server.is_robust else 1)  # every client's change in the full space
        size = max(1, GROUP_BYTES // (8 * (sent + whole)))  # float64 inside
        yield from (alike[start : start + size] for start in range(0, len(alike), size))
    for item in plan.dense:
        yield [item]


def screened(this: Round, plan: TrainingPlan) -> tuple[Round, dict[str, str]]:
    """The round without the clients whose changes are too long, and those with the reasons; long ones are clipped.

    `server.drop_norm` and `server.clip_norm` are multiples of the median norm, `privacy.clip_norm` is a norm. What
    weight decay took is not part of a change. Reads every update once.
    """
    drop, clip, privacy = this.spec.server.drop_norm, this.spec.server.clip_norm, this.spec.privacy
    if drop is None and clip is None and privacy is None:
        return this, {}
    method = method_of(this.spec)
    norms = []
    for client in this.clients:
        squared = sum(method.squared_norm(target, this, client) for target in plan.targets)
        squared += sum(float(client.read(f"{item.name}/delta").double().square().sum()) for item in plan.dense)
        norms.append(sqrt(squared))
    if privacy is not None:
        clips = tuple(min(1.0, privacy.clip_norm / norm) if norm else 1.0 for norm in norms)
        return replace(this, clips=clips), {}
    middle = median(norms)
    if middle == 0:  # most have changed nothing: there is nothing to compare with
        return this, {}
    most = drop * middle if drop is not None else inf
    dropped = {
        client.client: f"its change is {norm / middle:.3g} times as long as the median one (server.drop_norm: {drop:g})"
        for client, norm in zip(this.clients, norms, strict=True)
        if norm > most
    }
    kept = [(client, norm) for client, norm in zip(this.clients, norms, strict=True) if norm <= most]
    longest = clip * middle if clip is not None else inf
    clips = tuple(longest / norm if norm > longest else 1.0 for _, norm in kept)
    return replace(this, clients=[client for client, _ in kept], clips=clips), dropped


def spent(spec: JobSpec, version: int) -> dict[str, list[float]]:
    """Statistics of a job with privacy: the epsilon that all versions up to this one have cost together."""
    if spec.privacy is None:
        return {}
    return {"epsilon": [epsilon(spec.privacy.noise_multiplier, version, spec.privacy.delta)]}


def aggregate_group(group: Sequence[Target] | Sequence[Dense], this: Round) -> GroupResult:
    """The server's step for one group: what becomes of its tensors."""
    targets = [item for item in group if isinstance(item, Target)]
    method = method_of(this.spec)
    result = method.aggregate(targets, this) if targets else GroupResult()
    for target in targets:
        result.weights |= method.apply(target, this.spec, this.weights, result.aggregate, this.decay)
    for item in group:
        if isinstance(item, Dense):
            changes = [client.read(f"{item.name}/delta").to(this.device) for client in this.clients]
            change = (this.spec.server.learning_rate * this.change(item.name, changes)).cpu()
            last = this.last(f"{item.name}/delta")
            if last is not None:
                change += this.spec.method.momentum * last
            result.aggregate[f"{item.name}/delta"] = change
            result.weights[item.name] = apply_dense(this.weights(item.name), 1.0, change)
    return result


def apply_aggregate(
    weights: Mapping[str, Tensor], aggregate: Mapping[str, Tensor], decay: float, plan: TrainingPlan, spec: JobSpec
) -> dict[str, Tensor]:
    """A client's step to the next version, with the bits that the server has.

    Args:
        weights: the version before, as `layout.weights_tensors` lists it; float32 on the CPU.
        aggregate: as `layout.aggregate_tensors` lists it.
        decay: what the target weights are multiplied by first; the file's metadata has it.
    """
    method = method_of(spec)
    result: dict[str, Tensor] = {}
    for target in plan.targets:
        result |= method.apply(target, spec, weights.__getitem__, aggregate, decay)
    for item in plan.dense:
        result[item.name] = apply_dense(weights[item.name], 1.0, aggregate[f"{item.name}/delta"])
    return result
