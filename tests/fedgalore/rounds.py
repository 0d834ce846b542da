"""Rounds by hand: two clients' updates, and the version that `next_version` makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from fedgalore.aggregation import NextVersion, TensorSink, first_version, next_version, server_round
from fedgalore.data.examples import Example
from fedgalore.deltas import nothing
from fedgalore.model.task import TaskModel
from fedgalore.replay import Aggregate, Replayed
from fedgalore.rounds import ClientTensors, GroupResult, LocalRound, ServerRound, Shelf, Start
from fedgalore.soundness import without_the_unfit
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import TensorSpec, TrainingPlan
from fedgalore.training import Update, local_update
from tests.fedgalore.conftest import questions, sentences

COUNTS = {"a": 6, "b": 18}  # examples by client
CPU = torch.device("cpu")
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.uint8: "U8"}


def examples_of(spec: JobSpec, client: str) -> list[Example]:
    data = questions if spec.model.task == "causal-lm" else sentences
    return data(COUNTS[client], sum(client.encode()))


def version_0(spec: JobSpec, folder: Path) -> tuple[TaskModel, dict[str, Tensor]]:
    task = TaskModel.load(spec, folder)
    return task, first_version(task)


def an_update(
    task: TaskModel,
    spec: JobSpec,
    examples: Sequence[Example],
    client: str,
    number: int,
    start: Start,
    on_step: Callable[[int, float], bool] | None = None,
) -> Update:
    """A client's update for a round of this job. The task may have been built for another job."""
    return local_update(LocalRound(task.under(spec), client, number, start), examples, on_step)


def updates_of(
    task: TaskModel, spec: JobSpec, start: Start, number: int = 1, clients: Iterable[str] = COUNTS
) -> dict[str, Update]:
    return {c: an_update(task, spec, examples_of(spec, c), c, number, start) for c in clients}


def clients_of(updates: Mapping[str, Update]) -> list[ClientTensors]:
    return [update.as_sent(name) for name, update in sorted(updates.items())]


@dataclass(frozen=True)
class ARound:
    """The inputs from which the server computes a version."""

    spec: JobSpec
    clients: Sequence[ClientTensors]
    weights: Mapping[str, Tensor]
    shelf: Shelf
    number: int
    secret: str | None

    @property
    def server(self) -> ServerRound:
        """The round before anybody is left out or clipped."""
        return server_round(self.spec, self.number, self.shelf, self.clients, CPU)


def a_round(
    spec: JobSpec,
    clients: Sequence[ClientTensors],
    weights: Mapping[str, Tensor],
    state: Mapping[str, Tensor] | None = None,
    residue: Mapping[str, Tensor] | None = None,
    number: int = 1,
    secret: str | None = None,
) -> ARound:
    lookups = [part.get if part else nothing for part in (state, residue)]
    return ARound(spec, clients, weights, Shelf(weights.__getitem__, *lookups), number, secret)


@dataclass
class Aggregated(TensorSink):
    """A version by tensor name, with its statistics. No tensor of any part comes twice."""

    weights: dict[str, Tensor] = field(default_factory=dict)
    decay: float = 1.0
    dropped: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)

    def put(self, group: GroupResult) -> None:
        for part, tensors in group.parts():
            assert not getattr(self, part).keys() & tensors.keys()
        super().put(group)


def aggregated(plan: TrainingPlan, this: ARound) -> Aggregated:
    """The version that a round makes, without the clients whose updates are not fit."""
    made = []

    def make(left_out: Mapping[str, str]) -> NextVersion:
        made.append(Aggregated())
        return next_version(
            *(this.spec, plan, this.number, this.shelf, this.clients, made[-1]),
            device=CPU,
            secret=this.secret,
            left_out=left_out,
        )

    version, sink = without_the_unfit(make), made[-1]
    sink.weights = dict(Replayed(this.weights, [Aggregate(sink.aggregate, version.decay)], plan, this.spec))
    sink.decay, sink.dropped, sink.statistics = version.decay, version.dropped, version.statistics
    return sink


def specs_of(tensors: Mapping[str, Tensor]) -> dict[str, TensorSpec]:
    """As a file's header would describe them."""
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    return {name: TensorSpec(DTYPES[tensor.dtype], tuple(tensor.shape)) for name, tensor in tensors.items()}
