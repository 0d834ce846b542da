"""Jobs, rounds and agents as REST answers them: the response models of `schemas`, filled with the engine's values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from coordinator.doors.rest.problems import FieldProblem
from coordinator.doors.rest.schemas import (
    AgentView,
    AlignmentView,
    BestVersion,
    CensusView,
    CurrentRound,
    EvaluationView,
    JobSummary,
    JobTrial,
    JobView,
    LiveParticipant,
    ModelEvaluation,
    ParticipantView,
    PooledEvaluation,
    RoundView,
    SiteView,
    TaskView,
)
from coordinator.state.job_state import Job, Preparing, Ready
from coordinator.state.pooled import by_version, of_held_out, pool, results
from coordinator.state.records import AgentStatus
from coordinator.state.round_state import EvaluationResult, ModelVersion, Participant, Round
from coordinator.state.sites import SiteCheck
from coordinator.state.totals import Totals, Traffic
from fedgalore.best import no_best
from fedgalore.spec.job import JobSpec
from fedgalore.spec.metrics import class_names
from fedgalore.spec.plan import TrainingPlan


def job_summary(job: Job) -> JobSummary:
    return JobSummary.model_validate(_summary(job))


def job_view(
    job: Job,
    rounds: Iterable[Round],
    live: Mapping[str, Mapping[str, Any]],
    totals: Totals,
    warnings: list[dict[str, str]],
) -> JobView:
    """One job with its round in flight.

    Args:
        rounds: those in which clients evaluated the newest version that any has.
        live: what each client last reported of its progress.
        totals: what is counted of the job.
        warnings: `{field, problem}` rows.
    """
    told = evaluation(job.parsed, rounds)
    return JobView(
        **_summary(job),
        round=_current(job.round, live) if job.round else None,
        evaluation=told,
        held_out=held_out(job.parsed, job.model),
        held_out_failure=job.model.held_out_failure if job.model else None,
        best=_best(job),
        no_best=_no_best(job, told),
        sites={client: _site(check) for client, check in sorted(job.sites.items())},
        trains=CensusView(**job.prepared.plan["census"]) if job.prepared else None,
        notes=list(job.prepared.notes) if job.prepared else [],
        description=job.labels.description,
        up_bytes=totals.up,
        down_bytes=totals.down,
        rounds_opened=job.rounds_opened,
        warnings=[FieldProblem(**row) for row in warnings],
        spec=job.parsed,
    )


def job_trial(spec: JobSpec, before: Job | None, warnings: list[dict[str, str]]) -> JobTrial:
    """A document that was posted as a dry run; `before`: the job that was posted with its key."""
    return JobTrial(job=before.id if before else None, warnings=[FieldProblem(**row) for row in warnings], spec=spec)


def _site(check: SiteCheck) -> SiteView:
    facts = check.facts
    return SiteView(
        fits=check.fits if check.answered_at is not None else None,
        problem=check.problem,
        code=check.code,
        examples=facts.examples if facts else None,
        test_examples=facts.test_examples if facts else None,
        classes=facts.classes if facts else None,
        longest_text=facts.longest if facts else None,
        answered=moment(check.answered_at) if check.answered_at is not None else None,
    )


def _no_best(job: Job, told: ModelEvaluation | None) -> str | None:
    central = of_held_out(job.model).undefined
    if told is None and (job.model is None or job.model.held_out is None):
        return None
    return no_best(job.best, {"sites": told.undefined if told else {}, "central": central}, job.parsed)


def _best(job: Job) -> BestVersion | None:
    keep, best = job.parsed.evaluation.keep, job.best
    if keep is None or best is None:
        return None
    return BestVersion(model_version=best.version, metric=keep.metric, value=best.value, by=best.by, since=best.since)


def dense_bytes(job: Job) -> int:
    """Bytes of all trained weights; 0 while the job is being prepared. Takes a walk through the whole plan."""
    match job.stage:
        case Ready(prepared=prepared):
            return TrainingPlan.from_dict(prepared.plan).dense_bytes()
        case Preparing():
            return 0


def round_view(
    spec: JobSpec, round: Round, traffic: Traffic, dense_bytes: int, version: ModelVersion | None = None
) -> RoundView:
    """One round, closed or in flight, with the bytes that it moved.

    Args:
        spec: of its job, as `dense_bytes`.
        version: that the round starts from.
    """
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
        evaluation=_pooled(spec, round.model_version, results(round)),
        held_out=held_out(spec, version),
        held_out_failure=version.held_out_failure if version else None,
        up_bytes=sum(cell.get("up", 0) for cell in bytes_of.values()),
        down_bytes=sum(cell.get("down", 0) for cell in bytes_of.values()),
        dense_bytes=dense_bytes,
        statistics=dict(round.statistics),
        alignment={layer: AlignmentView(**vars(found)) for layer, found in round.alignment.items()},
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
        teams=sorted(agent.teams),
    )


def evaluation(spec: JobSpec, rounds: Iterable[Round], version: int | None = None) -> ModelEvaluation | None:
    """Of this version, or of the newest evaluated."""
    found = by_version(rounds)
    version = max(found, default=0) if version is None else version
    pooled = _pooled(spec, version, found.get(version, {}))
    if pooled is None:
        return None
    clients = {client: _evaluation(result) for client, result in sorted(found[version].items())}
    return ModelEvaluation(**pooled.model_dump(), clients=clients)


def held_out(spec: JobSpec, version: ModelVersion | None) -> PooledEvaluation | None:
    """How a version does on the job's held-out set, where it was evaluated."""
    if version is None or version.held_out is None:
        return None
    return _pooled(spec, version.version, {"held out": version.held_out})


def _pooled(spec: JobSpec, version: int, results: Mapping[str, EvaluationResult]) -> PooledEvaluation | None:
    if not results:
        return None
    measured = pool(results, spec.server)
    return PooledEvaluation(
        model_version=version,
        examples=sum(result.examples for result in results.values()),
        metrics=measured.metrics,
        per_class={
            name: dict(zip(class_names(name, spec.model), row, strict=True)) for name, row in measured.per_class.items()
        },
        confusion_matrix=measured.confusion_matrix,
        undefined=measured.undefined,
    )


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
        "rounds_done": job.rounds_behind(stage.model.version) if isinstance(stage, Ready) else None,
        "rounds_total": spec.rounds.count,
        "method": spec.method.kind,
        "posted_by": job.posted_by,
        "team": job.team or None,
        "tags": list(job.labels.tags),
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
        failure_code=participant.failure_code,
        evaluation=_evaluation(participant.evaluation) if participant.evaluation else None,
    )


def _participant(round: Round, client: str, participant: Participant, moved: Mapping[str, int]) -> ParticipantView:
    return ParticipantView(
        reported=round.has_reported(client),
        failure=participant.failure,
        failure_code=participant.failure_code,
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
