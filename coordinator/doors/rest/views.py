"""What REST answers: jobs, rounds and agents as response models, of the engine's values.

Times are ISO 8601 in UTC, durations end in `_s`, sizes in `_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from math import fsum
from typing import Any, Literal

from pydantic import BaseModel, Field

from coordinator.state.job_state import Job, Preparing, Ready, Status
from coordinator.state.records import AgentStatus
from coordinator.state.round_state import EvaluationResult, Participant, Phase, Round
from fedgalore.spec.job import JobSpec
from fedgalore.spec.plan import TrainingPlan

Traffic = Mapping[int, Mapping[str, Mapping[str, int]]]  # round -> client -> "up" | "down" -> bytes


class EvaluationView(BaseModel):
    """What a client measured on its data."""

    model_version: int
    examples: int
    metrics: dict[str, float]


class ModelEvaluation(BaseModel):
    """What clients measured of a model version; `mean` is weighted by their numbers of examples."""

    model_version: int
    examples: int
    mean: dict[str, float]
    clients: dict[str, EvaluationView]


class LiveParticipant(BaseModel):
    """A client in the round in flight. `stage`, `step` and `train_loss` are what it reported last, null before that."""

    stage: str | None
    step: int | None
    train_loss: float | None
    reported: bool
    failure: str | None
    evaluation: EvaluationView | None


class CurrentRound(BaseModel):
    number: int
    kind: Literal["train", "evaluate"]
    phase: Phase
    reason: str
    model_version: int
    opened_at: datetime
    deadline_at: datetime | None
    participants: dict[str, LiveParticipant]


class JobSummary(BaseModel):
    id: str
    name: str
    status: Status
    reason: str
    created: datetime
    updated: datetime
    model_version: int | None = Field(description="Committed rounds behind the model; null while it is being prepared")
    rounds_total: int
    method: str


class JobView(JobSummary):
    round: CurrentRound | None = Field(description="The round in flight")
    evaluation: ModelEvaluation | None = Field(description="Of the newest version that clients have evaluated")
    up_bytes: int = Field(description="Received from clients so far")
    down_bytes: int = Field(description="Sent to clients so far")
    spec: JobSpec


class JobList(BaseModel):
    jobs: list[JobSummary]
    next: str | None = Field(description="Pass it as `after` for the next page; null: this is the last page")


class ParticipantView(BaseModel):
    reported: bool
    failure: str | None = Field(description="Why it could not do its task")
    dropped: str | None = Field(description="Why its update is not in the round's result")
    lost: str | None = Field(description="Why an update of it that had been accepted was asked for again")
    num_examples: int | None = Field(description="Training examples behind its update")
    metrics: dict[str, float] = Field(description="What it measured while it trained")
    evaluation: EvaluationView | None = Field(description="How the model that it received does on its data")
    update_bytes: int | None = Field(description="Size of the accepted update; what up_bytes exceeds it was sent again")
    up_bytes: int
    down_bytes: int


class RoundView(BaseModel):
    number: int
    kind: Literal["train", "evaluate"] = Field(description="`evaluate`: the last round, which only measures the model")
    phase: Phase
    reason: str = Field(description="Where the round stands, or why it ended, for people")
    model_version: int = Field(description="Version that the round starts from")
    result_version: int | None = Field(description="Version that the round made")
    phase_at: dict[str, datetime]
    phase_s: dict[str, float] = Field(description="Time spent in each phase that has ended")
    participants: dict[str, ParticipantView]
    up_bytes: int
    down_bytes: int
    dense_bytes: int = Field(description="What each client would have sent had it sent all trained weights whole")
    statistics: dict[str, float] = Field(description="Means over the trained matrices; the names depend on the method")
    timings: dict[str, float] = Field(description="Seconds that the aggregator took for each part of its work")


class RoundList(BaseModel):
    rounds: list[RoundView]
    next: int | None = Field(description="Pass it as `after` for the next page; null: this is the last page")


class TaskView(BaseModel):
    job: str
    round: int


class AgentView(BaseModel):
    name: str
    present: bool
    datasets: dict[str, int] = Field(description="Training examples by data set")
    software_version: str
    registered: datetime
    last_seen: datetime | None = Field(description="null: expected, but never seen")
    task: TaskView | None


class AgentList(BaseModel):
    agents: list[AgentView]


def job_summary(job: Job) -> JobSummary:
    return JobSummary.model_validate(_summary(job))


def job_view(job: Job, rounds: Iterable[Round], live: Mapping[str, Mapping[str, Any]], traffic: Traffic) -> JobView:
    """One job with its round in flight.

    Args:
        rounds: all of the job's rounds, the round in flight included.
        live: what each client last reported of its progress.
        traffic: bytes by round, client and direction.
    """
    cells = [cell for clients in traffic.values() for cell in clients.values()]
    return JobView(
        **_summary(job),
        round=_current(job.round, live) if job.round else None,
        evaluation=evaluation(rounds),
        up_bytes=sum(cell.get("up", 0) for cell in cells),
        down_bytes=sum(cell.get("down", 0) for cell in cells),
        spec=job.parsed,
    )


def dense_bytes(job: Job) -> int:
    """Bytes of all trained weights; 0 while the job is being prepared. Takes a walk through the whole plan."""
    match job.stage:
        case Ready(prepared=prepared):
            return TrainingPlan.from_dict(prepared.plan).dense_bytes()
        case Preparing():
            return 0


def round_view(round: Round, traffic: Traffic, dense_bytes: int) -> RoundView:
    """One round, closed or in flight, with the bytes that it moved; `dense_bytes` as of its job."""
    bytes_of = traffic.get(round.number, {})
    starts = list(round.phase_at.items())
    return RoundView(
        number=round.number,
        kind=round.kind,
        phase=round.phase,
        reason=round.reason,
        model_version=round.model_version,
        result_version=round.result.version if round.result else None,
        phase_at={phase: moment(at) for phase, at in starts},
        phase_s={phase: after - at for (phase, at), (_, after) in pairwise(starts)},
        participants={
            client: _participant(round, client, participant, bytes_of.get(client, {}))
            for client, participant in sorted(round.participants.items())
        },
        up_bytes=sum(cell.get("up", 0) for cell in bytes_of.values()),
        down_bytes=sum(cell.get("down", 0) for cell in bytes_of.values()),
        dense_bytes=dense_bytes,
        statistics=dict(round.statistics),
        timings=dict(round.timings),
    )


def agent_view(agent: AgentStatus) -> AgentView:
    return AgentView(
        name=agent.name,
        present=agent.present,
        datasets=agent.datasets,
        software_version=agent.software_version,
        registered=moment(agent.registered_at),
        last_seen=moment(agent.last_seen) if agent.last_seen else None,
        task=TaskView(job=agent.task.job_id, round=agent.task.round) if agent.task else None,
    )


def evaluation(rounds: Iterable[Round], version: int | None = None) -> ModelEvaluation | None:
    """Of this version, or of the newest evaluated; a client that evaluated twice counts with its later result."""
    by_version: dict[int, dict[str, EvaluationResult]] = {}
    for each in rounds:
        for client, participant in each.participants.items():
            if (result := participant.evaluation) is not None:
                by_version.setdefault(result.model_version, {})[client] = result
    version = max(by_version, default=0) if version is None else version
    results = by_version.get(version, {})
    if not results:
        return None
    return ModelEvaluation(
        model_version=version,
        examples=sum(result.examples for result in results.values()),
        mean=_weighted_mean(list(results.values())),
        clients={client: _evaluation(result) for client, result in sorted(results.items())},
    )


def _weighted_mean(results: list[EvaluationResult]) -> dict[str, float]:
    """Of the metrics that every result has; clients without examples do not count."""
    total = sum(result.examples for result in results)
    if total == 0:
        return {}
    names = sorted(set.intersection(*(set(result.metrics) for result in results)))
    return {name: fsum(result.examples * result.metrics[name] for result in results) / total for name in names}


def _summary(job: Job) -> dict[str, Any]:
    spec, stage = job.parsed, job.stage
    return {
        "id": job.id,
        "name": spec.name,
        "status": job.status,
        "reason": job.reason,
        "created": moment(job.created_at),
        "updated": moment(job.updated_at),
        "model_version": stage.model.version if isinstance(stage, Ready) else None,
        "rounds_total": spec.rounds.count,
        "method": spec.method.kind,
    }


def _current(round: Round, live: Mapping[str, Mapping[str, Any]]) -> CurrentRound:
    return CurrentRound(
        number=round.number,
        kind=round.kind,
        phase=round.phase,
        reason=round.reason,
        model_version=round.model_version,
        opened_at=moment(round.opened_at),
        deadline_at=moment(round.deadline_at) if round.deadline_at is not None else None,
        participants={
            client: _live(round, client, participant, live.get(client, {}))
            for client, participant in sorted(round.participants.items())
        },
    )


def _live(round: Round, client: str, participant: Participant, said: Mapping[str, Any]) -> LiveParticipant:
    return LiveParticipant(
        stage=said.get("stage"),
        step=said.get("step"),
        train_loss=said.get("train_loss"),
        reported=round.has_reported(client),
        failure=participant.failure,
        evaluation=_evaluation(participant.evaluation) if participant.evaluation else None,
    )


def _participant(round: Round, client: str, participant: Participant, moved: Mapping[str, int]) -> ParticipantView:
    return ParticipantView(
        reported=round.has_reported(client),
        failure=participant.failure,
        dropped=participant.dropped,
        lost=participant.lost,
        num_examples=participant.receipt.num_examples if participant.receipt else None,
        metrics=dict(participant.receipt.metrics) if participant.receipt else {},
        evaluation=_evaluation(participant.evaluation) if participant.evaluation else None,
        update_bytes=participant.receipt.blob.size_bytes if participant.receipt else None,
        up_bytes=moved.get("up", 0),
        down_bytes=moved.get("down", 0),
    )


def _evaluation(result: EvaluationResult) -> EvaluationView:
    return EvaluationView(model_version=result.model_version, examples=result.examples, metrics=dict(result.metrics))


def moment(seconds: float) -> datetime:
    """Seconds since the epoch as REST shows them."""
    return datetime.fromtimestamp(seconds, UTC)
