"""What a simulation records, and the same as a coordinator would answer it: one plot serves both."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor

from fedgalore.alignment import Alignment
from fedgalore.best import Best
from fedgalore.client.records import COLUMNS, Records
from fedgalore.client.shapes import Alignment as AlignmentShape
from fedgalore.client.shapes import Evaluation, Participant, PooledEvaluation, Round
from fedgalore.measures.values import Measured, training_mean
from fedgalore.model.task import TaskModel
from fedgalore.spec.job import JobSpec
from fedgalore.spec.metrics import class_names
from fedgalore.spec.server import ServerSpec


@dataclass(frozen=True)
class RoundRecord:
    """What one round showed.

    By client: metrics of the model it started from (`evaluation`) and of `training`, the training `examples` behind its
    update, and why it was left out (`dropped`). `pooled`: that model on all clients' examples, as one test set.
    `held_out`: that model on each held-out set, by name. `statistics` of states, and by layer their `alignment`;
    `up_bytes`, `down_bytes` of all participants together, tensors only. The base model's way down is not counted.
    """

    number: int
    model_version: int
    evaluation: dict[str, dict[str, float]] = field(default_factory=dict)
    training: dict[str, dict[str, float]] = field(default_factory=dict)
    held_out: dict[str, Measured] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    statistics: dict[str, float] = field(default_factory=dict)
    alignment: dict[str, Alignment] = field(default_factory=dict)
    up_bytes: int = 0
    down_bytes: int = 0
    pooled: Measured = field(default_factory=Measured)
    examples: dict[str, int] = field(default_factory=dict)

    def metrics(self, spec: JobSpec) -> Records:
        """This round's rows of `SimulationResult.metrics`."""
        return Records.of(_rows(self, spec.server))


@dataclass(frozen=True)
class SimulationResult:
    """`task` holds the final weights.

    `weights`, and `best_weights` of the best version where the job keeps one, are as `layout.weights_tensors` lists
    them: adapters beside the trained weights. `no_best`: why there is no best one, although the job keeps one.
    """

    task: TaskModel
    weights: dict[str, Tensor]
    rounds: list[RoundRecord]
    best: Best | None = None
    no_best: str | None = None
    best_weights: dict[str, Tensor] | None = None

    def as_rounds(self) -> list[Round]:
        """The records as `fedgalore.client.Client.rounds` answers them of a job.

        None or empty is what a simulation has none of: times, examples, and bytes of a single client. Of several
        held-out sets, it is the first.
        """
        dense_bytes = self.task.plan.dense_bytes()
        return [_round(record, self.task.spec, dense_bytes, record is self.rounds[-1]) for record in self.rounds]

    def metrics(self) -> Records:
        """What was measured in all rounds, in the rows of `fedgalore.client.Client.metrics`.

        Of `traffic` there are tensors alone, of all clients together; of `server` no seconds.
        """
        return Records.of(row for record in self.rounds for row in _rows(record, self.task.spec.server))


def _rows(record: RoundRecord, server: ServerSpec) -> Iterator[dict[str, Any]]:
    """Values that JSON holds, as the coordinator answers them."""

    def rows(client: str | None, source: str, values: Mapping[str, float]) -> Iterator[dict[str, Any]]:
        for metric, value in values.items():
            if math.isfinite(value):
                cells = (record.number, record.model_version, client, source, metric, value)
                yield dict(zip(COLUMNS, cells, strict=True))

    held_out = next(iter(record.held_out.values()), Measured())
    yield from rows(None, "evaluation", record.pooled.metrics if record.evaluation else {})
    yield from rows(None, "held_out", held_out.metrics)
    trained = {client: (record.examples[client], metrics) for client, metrics in record.training.items()}
    yield from rows(None, "training", training_mean(server, trained))
    yield from rows(None, "server", record.statistics)
    yield from rows(None, "traffic", {"up_bytes": record.up_bytes, "down_bytes": record.down_bytes})
    for source, by_client in (("evaluation", record.evaluation), ("training", record.training)):
        for client, values in by_client.items():
            yield from rows(client, source, values)


def _round(record: RoundRecord, spec: JobSpec, dense_bytes: int, final: bool) -> Round:
    version = record.model_version
    held_out = next(iter(record.held_out.values()), None)
    names = sorted({*record.training, *record.evaluation})
    return Round(
        number=record.number,
        kind="evaluate" if final else "train",
        phase="COMMITTED",
        reason="simulated",
        model_version=version,
        result_version=None if final else version + 1,
        phase_at={},
        phase_s={},
        participants={name: _participant(record, name) for name in names},
        evaluation=_pooled(record.pooled, version, spec) if record.evaluation else None,
        held_out=_pooled(held_out, version, spec) if held_out is not None else None,
        held_out_failure=None,
        up_bytes=record.up_bytes,
        down_bytes=record.down_bytes,
        dense_bytes=dense_bytes,
        statistics=record.statistics,
        alignment={layer: AlignmentShape(**asdict(found)) for layer, found in record.alignment.items()},
        timings={},
    )


def _participant(record: RoundRecord, name: str) -> Participant:
    found = record.evaluation.get(name)
    return Participant(
        reported=name in record.training,
        failure=None,
        failure_code=None,
        dropped=record.dropped.get(name),
        lost=None,
        num_examples=record.examples.get(name),
        metrics=record.training.get(name, {}),
        evaluation=Evaluation(model_version=record.model_version, examples=None, metrics=found) if found else None,
        update_bytes=None,
        up_bytes=None,
        down_bytes=None,
    )


def _pooled(found: Measured, version: int, spec: JobSpec) -> PooledEvaluation:
    per_class = {
        name: dict(zip(class_names(name, spec.model), row, strict=True)) for name, row in found.per_class.items()
    }
    return PooledEvaluation(
        model_version=version,
        examples=None,
        metrics=found.metrics,
        per_class=per_class,
        confusion_matrix=found.confusion_matrix,
        undefined=found.undefined,
    )
