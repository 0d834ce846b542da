"""One job as a pure state machine around the machine of its round in flight.

    PENDING -> RUNNING <-> PAUSED -> COMPLETED | FAILED | CANCELLED

`advance` is the only place where a job moves, by a table of (status, event); what the table lacks raises and changes
nothing. The next round opens on a `Tick`, so a restarted coordinator only has to tick on. Rounds are numbered from 1
and an abandoned round keeps its number; the model's version counts committed rounds only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from coordinator.state import round as rounds
from coordinator.state.errors import IllegalTransition, RoundClosed
from coordinator.state.job_state import (
    AggregationFailed,
    Cancel,
    InRound,
    Job,
    JobEvent,
    Pause,
    PreparationFailed,
    PreparedModel,
    Resume,
    Status,
)
from coordinator.state.round_state import Abandon, Effect, Phase, Round, Tick
from fedgalore.spec.job import JobSpec

ABANDONED_UNTIL_PAUSE = 3


class JobStep(NamedTuple):
    """`closed` is the round that this step ended: it leaves the job and goes to the archive."""

    job: Job
    effects: tuple[Effect, ...]
    reason: str
    closed: Round | None


def create(id: str, spec: JobSpec, now: float, idempotency_key: str | None = None, secret: str | None = None) -> Job:
    """A job just posted; `secret`, hexadecimal, makes the noise of one with privacy."""
    return Job(
        id=id,
        spec=spec.model_dump(mode="json"),
        status=Status.PENDING,
        reason="waiting for the aggregator to read model.source",
        created_at=now,
        updated_at=now,
        idempotency_key=idempotency_key,
        secret=secret if spec.privacy is not None else None,
    )


def advance(job: Job, event: JobEvent, now: float) -> JobStep:
    """The job after `event`; the same object when nothing changed.

    Raises:
        IllegalTransition: the status (or the round's phase) has no row for this event.
        RoundClosed: the event is for a round that is not in flight, or comes from a client too late.
        NotParticipant: a client speaks that was not selected.
    """
    handler = _TABLE.get((job.status, type(event)))
    if handler is None:
        raise IllegalTransition(_refusal(job, event))
    after, effects, closed = handler(job, event, now)
    if after is not job:
        after = replace(after, updated_at=now)
    return JobStep(after, effects, explain(after, now).reason, closed)


def explain(job: Job, now: float) -> Job:
    """The job with the reasons (its own and its round's) as they stand at `now`, for people."""
    if job.round is None:
        return replace(job, reason=job.reason or "the next round is about to open")
    told = rounds.explain(job.round, now, job.policy(job.round.kind))
    reason = f"round {job.round.number}: {told}"
    if job.reason:
        reason = f"{reason} ({job.reason})" if job.status is Status.RUNNING else f"{job.reason}; {reason}"
    return replace(job, reason=reason, round=replace(job.round, reason=told))


_Outcome = tuple[Job, tuple[Effect, ...], Round | None]


def _prepared(job: Job, event: PreparedModel, now: float) -> _Outcome:
    running = replace(job, status=Status.RUNNING, reason="", prepared=event.prepared, model=event.prepared.model)
    return running, (), None


def _preparation_failed(job: Job, event: PreparationFailed, now: float) -> _Outcome:
    return replace(job, status=Status.FAILED, reason=event.reason), (), None


def _pause(job: Job, event: Pause, now: float) -> _Outcome:
    return (
        replace(job, status=Status.PAUSED, reason="paused by the operator; resume it to open the next round"),
        (),
        None,
    )


def _already(job: Job, event: Pause | Resume | Cancel, now: float) -> _Outcome:
    """Told again, by a person who saw no answer or by the client library: what was asked for has happened."""
    return job, (), None


def _resume(job: Job, event: Resume, now: float) -> _Outcome:
    return replace(job, status=Status.RUNNING, reason="", abandoned_in_a_row=0), (), None


def _cancel(job: Job, event: Cancel, now: float) -> _Outcome:
    cancelled = replace(job, status=Status.CANCELLED, reason="cancelled by the operator")
    if job.round is None:
        return cancelled, (), None
    step = rounds.advance(job.round, Abandon("the job was cancelled"), now, job.policy(job.round.kind))
    return replace(cancelled, round=None), step.effects, step.round


def _tick(job: Job, event: Tick, now: float) -> _Outcome:
    if job.round is not None:
        return _round_event(job, InRound(job.round.number, event), now)
    if job.status is not Status.RUNNING or job.model is None:
        return job, (), None
    spec, version = job.parsed, job.model.version
    kind: Literal["train", "evaluate"] = "train" if version < spec.rounds.count else "evaluate"
    number = job.rounds_opened + 1
    opened = rounds.open_round(number, kind, version, spec.evaluates(version), now, job.policy(kind))
    return replace(job, round=opened, rounds_opened=number), (), None


def _aggregation_failed(job: Job, event: AggregationFailed, now: float) -> _Outcome:
    return _round_event(job, InRound(event.number, Abandon(f"aggregation failed: {event.reason}")), now)


def _round_event(job: Job, event: InRound, now: float) -> _Outcome:
    if job.round is None or job.round.number != event.number:
        raise RoundClosed(f"round {event.number} of job {job.id} is not in flight; ask for the next task")
    step = rounds.advance(job.round, event.event, now, job.policy(job.round.kind))
    if step.round is job.round:
        return job, (), None
    if not step.round.phase.is_final:
        return replace(job, round=step.round), step.effects, None
    return _closed(replace(job, round=None), step.round), step.effects, step.round


def _closed(job: Job, round: Round) -> Job:
    """What the end of its round makes of a job."""
    if round.kind == "evaluate":
        return replace(job, status=Status.COMPLETED, reason=f"version {round.model_version} is final; {round.reason}")
    if round.phase is Phase.COMMITTED:
        # A pause keeps its reason; the record of abandoned rounds ends here.
        reason = job.reason if job.status is Status.PAUSED else ""
        made = {
            name: round.model_version + 1
            for name, one in round.participants.items()
            if one.receipt is not None and one.dropped is None
        }
        contributions = {**job.contributions, **made}
        return replace(job, model=round.result, abandoned_in_a_row=0, reason=reason, contributions=contributions)
    in_a_row = job.abandoned_in_a_row + 1
    record = f"round {round.number} abandoned: {round.reason}"
    reason = f"{job.reason}; {record}" if job.reason else record
    job = replace(job, abandoned_in_a_row=in_a_row, reason=reason)
    if job.status is Status.RUNNING and in_a_row >= ABANDONED_UNTIL_PAUSE:
        reason = f"{in_a_row} rounds in a row were abandoned; mend the cause and resume the job. {reason}"
        return replace(job, status=Status.PAUSED, reason=reason)
    return job


def _refusal(job: Job, event: JobEvent) -> str:
    done = f"job {job.id} is {job.status}"
    match event:
        case Pause() if job.status is Status.PENDING:
            return f"{done}: it can be paused once it runs; wait for its preparation, or cancel it"
        case Resume() if not job.status.is_final:
            return f"{done}: only a paused job can be resumed"
        case _:
            return f"{done}: {type(event).__name__} has no place there" + (
                "; post a new job to go on" if job.status.is_final else ""
            )


_Row = dict[type, Callable[[Job, Any, float], _Outcome]]
_ROUND: _Row = {InRound: _round_event, AggregationFailed: _aggregation_failed, Tick: _tick, Cancel: _cancel}
# Who speaks of a round when none can be in flight hears that it is closed.
_FINAL: _Row = {InRound: _round_event, AggregationFailed: _aggregation_failed}
_ROWS: dict[Status, _Row] = {
    Status.PENDING: {**_ROUND, PreparedModel: _prepared, PreparationFailed: _preparation_failed},
    Status.RUNNING: {**_ROUND, Pause: _pause, Resume: _already},
    Status.PAUSED: {**_ROUND, Resume: _resume, Pause: _already},
    Status.COMPLETED: _FINAL,
    Status.FAILED: _FINAL,
    Status.CANCELLED: {**_FINAL, Cancel: _already},
}
_TABLE = {(status, event): handler for status, row in _ROWS.items() for event, handler in row.items()}
