"""Rounds by hand: two clients' updates, and what `simulate` and the aggregator do with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from fedgalore.aggregation import aggregate_group, groups
from fedgalore.data.examples import Example
from fedgalore.methods import method_of
from fedgalore.methods.base import ClientTensors, GroupResult, Round, Start, nothing
from fedgalore.model.task import TaskModel
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import TrainingPlan
from fedgalore.training import Update, local_update
from tests.fedgalore.conftest import questions, sentences

COUNTS = {"a": 6, "b": 18}  # examples by client


def examples_of(spec: JobSpec, client: str) -> list[Example]:
    data = questions if spec.model.task == "causal-lm" else sentences
    return data(COUNTS[client], sum(client.encode()))


def version_0(spec: JobSpec, folder: Path) -> tuple[TaskModel, dict[str, Tensor]]:
    task = TaskModel.load(spec, folder)
    return task, task.weights() | method_of(spec).carried(spec, task.plan)


def updates_of(
    task: TaskModel, spec: JobSpec, start: Start, number: int = 1, clients: Iterable[str] = COUNTS
) -> dict[str, Update]:
    return {c: local_update(task, spec, examples_of(spec, c), c, number, start) for c in clients}


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
    last: Mapping[str, Tensor] | None = None,
    secret: str | None = None,
) -> Round:
    return Round(
        spec=spec,
        number=number,
        clients=clients,
        weights=weights.__getitem__,
        state=state.__getitem__ if state else None,
        residue=residue.__getitem__ if residue else None,
        device=torch.device("cpu"),
        last=last.get if last and spec.method.momentum else nothing,
        secret=secret,
    )


def aggregated(plan: TrainingPlan, this: Round) -> GroupResult:
    """All groups of a round: weights, what goes down, state and residue by tensor name, statistics."""
    merged = GroupResult()
    for group in groups(plan, [client.client for client in this.clients], this.spec):
        part = aggregate_group(group, this)
        for kind in ("weights", "aggregate", "state", "residue"):
            assert not getattr(merged, kind).keys() & getattr(part, kind).keys()
        merged.add(part)
    return merged
