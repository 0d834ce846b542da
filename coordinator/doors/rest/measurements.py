"""What was measured in a job's rounds as records, one a value: the long form that data frames and plots want."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from pydantic import BaseModel, Field

from coordinator.state.pooled import of_held_out, pooled, results
from coordinator.state.round_state import ModelVersion, Round
from coordinator.state.totals import Traffic
from fedgalore.measures.values import Trained, training_mean
from fedgalore.spec.job import JobSpec
from fedgalore.spec.server import ServerSpec

Source = Literal["evaluation", "training", "held_out", "server", "traffic"]


class Measurement(BaseModel):
    """A value that was measured in a round."""

    round: int
    model_version: int = Field(description="Version that the round starts from, which is the one that is evaluated")
    client: str | None = Field(description="null: of all clients of the round together")
    source: Source = Field(
        description="`evaluation`: on clients' test examples; `training`: while they trained, together the mean by "
        "training examples, weighed as the changes of the model are; `held_out`: on the job's evaluation.central; "
        "`server`: by the aggregator, of trained matrices and of its time; `traffic`: bytes"
    )
    metric: str = Field(examples=["accuracy"])
    value: float


class MetricList(BaseModel):
    metrics: list[Measurement]
    next: int | None = Field(description="Pass it as `after` for the next page of rounds; null: this is the last page")


FIELDS = tuple(Measurement.model_fields)
EXAMPLE = f"{','.join(FIELDS)}\n3,2,north,evaluation,accuracy,0.84\n3,2,,evaluation,accuracy,0.81\n"


class Record(NamedTuple):
    """A `Measurement`, thousands of which are made at a time."""

    round: int
    model_version: int
    client: str | None
    source: Source
    metric: str
    value: float


def records(
    spec: JobSpec,
    rounds: Iterable[Round],
    versions: Mapping[int, ModelVersion],
    traffic: Traffic,
    metrics: Collection[str] = (),
    clients: Collection[str] = (),
) -> Iterator[Record]:
    """All that was measured in these rounds, in their order; clients by name behind what holds of all.

    Args:
        versions: by number, those whose held-out results are to be among them.
        traffic: bytes by round, client and direction.
        metrics, clients: only these, where any are named.
    """
    for each in rounds:
        for record in _of(spec.server, each, versions.get(each.model_version), traffic):
            if (not metrics or record.metric in metrics) and (not clients or record.client in clients):
                yield record


def _of(server: ServerSpec, round: Round, start: ModelVersion | None, traffic: Traffic) -> Iterator[Record]:
    def rows(client: str | None, source: Source, values: Mapping[str, float]) -> Iterator[Record]:
        for metric, value in values.items():
            if math.isfinite(value):  # JSON has no other numbers
                yield Record(round.number, round.model_version, client, source, metric, value)

    clients = sorted(round.participants.items())
    bytes_of = traffic.get(round.number, {})
    yield from rows(None, "evaluation", pooled(round, server).metrics if results(round) else {})
    yield from rows(None, "held_out", of_held_out(start).metrics)
    yield from rows(None, "training", training_mean(server, _trained(round)))
    yield from rows(None, "server", {**round.statistics, **round.timings})
    moved = {f"{way}_bytes": sum(each.get(way, 0) for each in bytes_of.values()) for way in ("up", "down")}
    yield from rows(None, "traffic", moved if bytes_of else {})
    for client, each in clients:
        yield from rows(client, "evaluation", each.evaluation.metrics if each.evaluation else {})
        yield from rows(client, "training", each.receipt.metrics if each.receipt else {})
        yield from rows(client, "traffic", {f"{way}_bytes": n for way, n in bytes_of.get(client, {}).items()})


def _trained(round: Round) -> dict[str, Trained]:
    """What the clients of a round said of their training."""
    return {client: (receipt.num_examples, receipt.metrics) for client, receipt in round.receipts.items()}


def json_of(found: Iterable[Record], follows: int | None) -> str:
    """As `MetricList`."""
    metrics = [dict(zip(FIELDS, each, strict=True)) for each in found]
    return json.dumps({"metrics": metrics, "next": follows}, separators=(",", ":"))


def csv_of(found: Iterable[Record]) -> str:
    """With a header; the client is empty where a value is of all together."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    writer.writerows(found)
    return text.getvalue()


def prefers_csv(accept: str) -> bool:
    """Whether CSV stands in the header before JSON and whatever else may come."""
    for kind in (each.partition(";")[0].strip().lower() for each in accept.split(",")):
        if kind in ("text/csv", "application/json", "application/*", "*/*"):
            return kind == "text/csv"
    return False
