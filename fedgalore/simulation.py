"""A whole federation in one process: the functions that agents and coordinator call, in the order in which they would.

For the same job, seed, clients and machine the final weights equal the distributed run's bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fedgalore.job_spec import JobSpec
from fedgalore.methods.fedgalore import ClientTensors, aggregate_group, groups
from fedgalore.selection import choose_cohort
from fedgalore.tasks import Example, TaskModel
from fedgalore.training import Update, evaluate, local_update


@dataclass(frozen=True)
class Site:
    """One client's name and data, as `fedgalore.data` reads it."""

    name: str
    train: Sequence[Example]
    test: Sequence[Example] = ()


@dataclass(frozen=True)
class RoundRecord:
    """What one round showed: by client, metrics of the model it started from and of training; statistics of states."""

    number: int
    model_version: int
    evaluation: dict[str, dict[str, float]] = field(default_factory=dict)
    training: dict[str, dict[str, float]] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SimulationResult:
    task: TaskModel  # holding the final weights
    weights: dict[str, Tensor]
    rounds: list[RoundRecord]


def simulate(
    spec: JobSpec,
    folder: Path,
    sites: Sequence[Site],
    device: torch.device | None = None,
    on_round: Callable[[RoundRecord], None] | None = None,
) -> SimulationResult:
    """Runs a job over `sites`; `folder` holds the base model. The last record is the evaluation of the final model.

    Raises:
        ValueError: fewer sites than the job's min_clients.
        TaskError, TrainingError: as `local_update`.
    """
    if len(sites) < spec.rounds.min_clients:
        raise ValueError(f"rounds.min_clients is {spec.rounds.min_clients}, but there are {len(sites)} clients")
    task = TaskModel.load(spec, folder, device)
    by_name = {site.name: site for site in sites}
    weights = task.weights()
    state: dict[str, Tensor] = {}
    residue: dict[str, Tensor] = {}
    records: list[RoundRecord] = []
    for version in range(spec.rounds.count + 1):
        number = version + 1  # rounds count from 1, as the coordinator's do
        record = RoundRecord(number, version)
        final = version == spec.rounds.count
        names = sorted(by_name) if final else choose_cohort(by_name, spec.rounds.cohort_size, spec.seed, number)
        updates: dict[str, Update] = {}
        for name in names:
            site = by_name[name]
            task.load_weights(weights)
            if spec.evaluates(version):
                examples = site.train if spec.evaluation.split == "train" else site.test
                if examples:
                    record.evaluation[name] = evaluate(task, spec, examples)
            if not final:
                updates[name] = local_update(task, spec, site.train, name, number, state)
                record.training[name] = updates[name].metrics
        if not final:
            weights, state, residue, statistics = _aggregate(updates, weights, residue, task, number)
            record.statistics.update(statistics)
        records.append(record)
        if on_round is not None:
            on_round(record)
    task.load_weights(weights)
    return SimulationResult(task, weights, records)


def _aggregate(
    updates: Mapping[str, Update], weights: dict[str, Tensor], residue: dict[str, Tensor], task: TaskModel, number: int
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, float]]:
    clients = [
        ClientTensors(name, update.num_examples, update.decay, update.tensors.__getitem__)
        for name, update in sorted(updates.items())
    ]
    new: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    kept: dict[str, Tensor] = {}
    statistics: dict[str, list[float]] = {}
    reader = residue.__getitem__ if residue else None
    for group in groups(task.plan, len(clients), task.spec):
        result = aggregate_group(group, clients, weights.__getitem__, reader, task.spec, number, task.device)
        new.update(result.weights)
        state.update(result.state)
        kept.update(result.residue)
        for key, values in result.statistics.items():
            statistics.setdefault(key, []).extend(values)
    return new, state, kept, {key: sum(values) / len(values) for key, values in statistics.items()}
