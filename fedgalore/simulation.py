"""A whole federation in one process: the functions that agents and coordinator call, in the order in which they would.

For the same job, seed, clients and machine the final weights equal the distributed run's bit for bit.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fedgalore.aggregation import TensorSink, first_version, next_version
from fedgalore.data.examples import Example
from fedgalore.model.exact_match import check_exact_match
from fedgalore.model.task import TaskModel
from fedgalore.rounds import LocalRound, Start
from fedgalore.selection import choose_cohort
from fedgalore.spec import layout
from fedgalore.spec.job import JobSpec
from fedgalore.training import Update, evaluate, local_update


@dataclass(frozen=True)
class Site:
    """One client's name and data, as `fedgalore.data.examples` reads it.

    `local_update` is what the client does with a round; a client that misbehaves has one of its own.
    """

    name: str
    train: Sequence[Example]
    test: Sequence[Example] = ()
    local_update: Callable[..., Update] = local_update


@dataclass(frozen=True)
class RoundRecord:
    """What one round showed.

    By client: metrics of the model it started from (`evaluation`) and of `training`, and why its update was left out
    (`dropped`); by name of a held-out set: metrics of that model; `statistics` of states; `up_bytes`, `down_bytes` of
    all participants together, tensors only. The base model's way down is not counted.
    """

    number: int
    model_version: int
    evaluation: dict[str, dict[str, float]] = field(default_factory=dict)
    training: dict[str, dict[str, float]] = field(default_factory=dict)
    held_out: dict[str, dict[str, float]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)
    up_bytes: int = 0
    down_bytes: int = 0


@dataclass(frozen=True)
class SimulationResult:
    task: TaskModel  # holding the final weights
    weights: dict[str, Tensor]  # as `layout.weights_tensors` lists them: adapters beside the trained weights
    rounds: list[RoundRecord]


def simulate(
    spec: JobSpec,
    folder: Path,
    sites: Sequence[Site],
    device: torch.device | None = None,
    on_round: Callable[[RoundRecord], None] | None = None,
    held_out: Mapping[str, Sequence[Example]] | None = None,
    secret: str | None = None,
) -> SimulationResult:
    """Runs a job over `sites`; `folder` holds the base model. The last record is the evaluation of the final model.

    Args:
        on_round: called with each round's record when it is over.
        secret: hexadecimal, of the noise of a job with privacy; drawn by default.
        held_out: examples by name that no client holds; the model is evaluated on them as often as on the sites' own.

    Raises:
        ValueError: fewer sites than the job's min_clients.
        TaskError, TrainingError: as `local_update`.
    """
    if len(sites) < spec.rounds.min_clients:
        raise ValueError(f"rounds.min_clients is {spec.rounds.min_clients}, but there are {len(sites)} clients")
    task = TaskModel.load(spec, folder, device)
    for examples in [*(_evaluated(spec, site) for site in sites), *(held_out or {}).values()]:
        check_exact_match(task, examples)
    secret = secret or secrets.token_hex(32)
    by_name = {site.name: site for site in sites}
    version = TensorSink(weights=first_version(task))
    own: dict[str, dict[str, Tensor]] = {}
    before: Collection[str] = by_name  # whoever has the version before; version 0 is drawn at every site
    summed: Collection[str] = by_name  # whose updates are in it
    records: list[RoundRecord] = []
    for model_version in range(spec.rounds.count + 1):
        number = model_version + 1  # rounds count from 1, as the coordinator's do
        final = model_version == spec.rounds.count
        names = sorted(by_name) if final else choose_cohort(by_name, spec.rounds.cohort_size, spec.seed, number)
        up, down = (0, 0) if final else _traffic(spec, task, names, before, summed, number)
        record = RoundRecord(number, model_version, up_bytes=up, down_bytes=down)
        if spec.evaluates(model_version) and held_out:
            task.load_weights(version.weights)
            record.held_out.update({name: evaluate(task, examples) for name, examples in held_out.items()})
        updates: dict[str, Update] = {}
        for name in names:
            site = by_name[name]
            if spec.evaluates(model_version) and (examples := _evaluated(spec, site)):
                task.load_weights(version.weights)
                record.evaluation[name] = evaluate(task, examples)
            if not final:
                start = Start(version.weights, version.state, own.get(name, {}), version.aggregate)
                updates[name] = site.local_update(LocalRound(task, name, number, start), site.train)
                record.training[name] = updates[name].metrics
        if not final:
            sent = [update.as_sent(name) for name, update in updates.items()]
            shelf, version = version.shelf(), TensorSink()
            made = next_version(spec, task.plan, number, shelf, sent, version, device=task.device, secret=secret)
            record.dropped.update(made.dropped)
            record.statistics.update(made.statistics)
            summed = updates.keys() - made.dropped.keys()
            own.update({name: updates[name].kept for name in summed})
        before = names
        records.append(record)
        if on_round is not None:
            on_round(record)
    task.load_weights(version.weights)
    return SimulationResult(task, version.weights, records)


def _evaluated(spec: JobSpec, site: Site) -> Sequence[Example]:
    return site.train if spec.evaluation.split == "train" else site.test


def _traffic(
    spec: JobSpec,
    task: TaskModel,
    names: Collection[str],
    before: Collection[str],
    summed: Collection[str],
    number: int,
) -> tuple[int, int]:
    """Bytes up and down of a round: who took part in the round before fetches its aggregate, others the weights.

    With momentum those need the aggregate as well.
    """
    plan = task.plan
    up = sum(layout.size_bytes(layout.update_tensors(spec, plan, name, number)) for name in names)
    if number == 1:
        return up, 0
    step = layout.size_bytes(layout.aggregate_tensors(spec, plan, sorted(summed), number - 1))
    whole = layout.size_bytes(layout.weights_tensors(spec, plan))
    state = layout.size_bytes(layout.state_tensors(spec, plan, number - 1))
    missed = whole + (step if spec.method.momentum else 0)  # of a round that a client was not in
    return up, sum(state + (step if name in before else missed) for name in names)
