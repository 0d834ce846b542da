"""The server's step by hand: what `simulate` and the aggregator do with a round's updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from fedgalore.job_spec import JobSpec
from fedgalore.methods.base import ClientTensors, GroupResult, Round
from fedgalore.plan import TrainingPlan
from fedgalore.server import aggregate_group, groups
from fedgalore.training import Update


def clients_of(updates: Mapping[str, Update]) -> list[ClientTensors]:
    return [
        ClientTensors(name, update.num_examples, update.decay, update.tensors.__getitem__)
        for name, update in sorted(updates.items())
    ]


def a_round(
    spec: JobSpec,
    clients: Sequence[ClientTensors],
    weights: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    residue: Mapping[str, Tensor] | None = None,
    number: int = 1,
) -> Round:
    return Round(
        spec=spec,
        number=number,
        clients=clients,
        weights=weights.__getitem__,
        state=state.__getitem__ if state else None,
        residue=residue.__getitem__ if residue else None,
        device=torch.device("cpu"),
    )


def aggregated(plan: TrainingPlan, this: Round) -> GroupResult:
    """All groups of a round: weights, what goes down, state and residue by tensor name, statistics."""
    merged = GroupResult()
    for group in groups(plan, [client.client for client in this.clients], this.spec):
        part = aggregate_group(group, this)
        for mine, its in (
            (merged.weights, part.weights),
            (merged.aggregate, part.aggregate),
            (merged.state, part.state),
            (merged.residue, part.residue),
        ):
            assert not mine.keys() & its.keys()
            mine.update(its)
        for key, values in part.statistics.items():
            merged.statistics.setdefault(key, []).extend(values)
    return merged
