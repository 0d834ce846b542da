"""One job as a pure state machine around the machine of its round in flight.

    PENDING <-> PAUSED <-> RUNNING -> COMPLETED | FAILED | CANCELLED

`advance` is the only place where a job moves. It looks (status, event) up in `TRANSITIONS`; what the table lacks raises
and changes nothing. The next round opens on a `Tick`, so a restarted coordinator only has to tick on. Rounds are
numbered from 1 and an abandoned round keeps its number; the model's version counts committed rounds only.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from coordinator.state import round as rounds
from coordinator.state import whole
from coordinator.state.after_round import after_round
from coordinator.state.errors import IllegalTransition, RoundNotInFlight
from coordinator.state.job_events import (
    AggregationFailed,
    Cancel,
    Describe,
    InRound,
    JobEvent,
    LoadedBack,
    Pause,
    PreparationFailed,
    PreparedModel,
    Resume,
    RollBack,
    SiteChecked,
    SitesSeen,
    WeightsLost,
    WeightsMade,
    WeightsWanted,
)
from coordinator.state.job_state import Job, Status
from coordinator.state.job_words import explain, refusal
from coordinator.state.labels import NONE, Labels
from coordinator.state.pooled import check_counts
from coordinator.state.rollback import rolled_back
from coordinator.state.round_state import Abandon, Effect, Evaluated, Round, Tick
from coordinator.state.sites import too_few_fit, unasked, without_chat_template, without_room
from fedgalore.best import is_worn_out
from fedgalore.process.transitions import Transition, to
from fedgalore.spec.job import JobSpec

_PREPARING = "waiting for the aggregator to read model.source"


class JobStep(NamedTuple):
    """`closed` is the round that this step ended: it leaves the job and goes to the archive."""

    job: Job
    effects: tuple[Effect, ...]
    reason: str
    closed: Round | None


def create(
    id: str,
    spec: JobSpec,
    now: float,
    idempotency_key: str | None = None,
    secret: str | None = None,
    posted_by: str = "",
    labels: Labels = NONE,
    team: str = "",
) -> Job:
    """A job that was just posted. `secret`, hexadecimal, makes the noise of a job with privacy; others keep none."""
    return Job(
        id=id,
        spec=spec.model_dump(mode="json"),
        status=Status.PENDING,
        reason=_PREPARING,
        created_at=now,
        updated_at=now,
        idempotency_key=idempotency_key,
        secret=secret if spec.privacy is not None else None,
        posted_by=posted_by,
        team=team,
        labels=labels,
    )


def advance(job: Job, event: JobEvent, now: float) -> JobStep:
    """The job after `event`; the same object when nothing changed.

    Raises:
        IllegalTransition: the status (or the round's phase) has no row for this event.
        RoundNotInFlight: the event is for a round that is not in flight.
        RoundClosed: a client speaks too late, or after it gave up.
        NotParticipant: a client speaks that was not selected.
        InvalidUpdate: an evaluation's counts are not those of the job's metrics.
    """
    row = TRANSITIONS.get((job.status, type(event)))
    if row is None:
        raise IllegalTransition(refusal(job, event))
    after, effects, closed = row.handler(job, event, now)
    row.check(job.status, event, after.status)
    if after is not job:
        after = replace(after, updated_at=now)
    return JobStep(after, effects, explain(after, now).reason, closed)


class _Outcome(NamedTuple):
    job: Job
    effects: tuple[Effect, ...] = ()
    closed: Round | None = None


def _prepared(job: Job, event: PreparedModel, now: float) -> _Outcome:
    _check_unprepared(job, event)
    ready = _sites_matched(replace(job, prepared=event.prepared, model=event.prepared.model))
    return _Outcome(ready if job.status is Status.PAUSED else replace(ready, status=Status.RUNNING, reason=""))


def _preparation_failed(job: Job, event: PreparationFailed, now: float) -> _Outcome:
    _check_unprepared(job, event)
    return _Outcome(replace(job, status=Status.FAILED, reason=event.reason))


def _check_unprepared(job: Job, event: PreparedModel | PreparationFailed) -> None:
    """A paused job may have a model, or none yet."""
    if job.model is not None:
        raise IllegalTransition(refusal(job, event))


def _sites_seen(job: Job, event: SitesSeen, now: float) -> _Outcome:
    """Asks those that have not been asked; pauses a job that cannot go on with the sites that there are."""
    asked = unasked(job.sites, event.present)
    if asked or event.missing != job.missing:
        job = replace(job, sites={**job.sites, **asked}, missing=event.missing)
    reason = too_few_fit(job.sites, event.present, job.parsed.rounds.min_clients)
    if reason and job.waits_for_sites:
        return _without_round(replace(job, status=Status.PAUSED, reason=reason), "too few sites fit the job", now)
    return _Outcome(job, (Effect.WAKE_AGENTS,) if asked else ())


def _site_checked(job: Job, event: SiteChecked, now: float) -> _Outcome:
    asked = job.sites.get(event.client)
    if asked is None or asked.answered_at is not None:
        return _Outcome(job)
    answer = replace(asked, answered_at=now, problem=event.problem, code=event.code, facts=event.facts)
    return _Outcome(_sites_matched(replace(job, sites={**job.sites, event.client: answer})))


def _sites_matched(job: Job) -> Job:
    """Sites are asked while the model is read: whichever comes last, both are known then."""
    if job.prepared is None:
        return job
    sites = job.sites if job.prepared.chat_template else without_chat_template(job.sites)
    return replace(job, sites=without_room(sites, job.parsed, job.prepared.memory))


def _pause(job: Job, event: Pause, now: float) -> _Outcome:
    reason = f"paused by {_who(event)}; resume it to open the next round"
    return _Outcome(replace(job, status=Status.PAUSED, reason=reason))


def _asked_again(job: Job, event: Pause | Resume | Cancel, now: float) -> _Outcome:
    """By a person who saw no answer, or by the client library: what was asked for has happened."""
    return _Outcome(job)


def _resume(job: Job, event: Resume, now: float) -> _Outcome:
    """Those that did not fit are asked again: what was wrong may have been mended."""
    status, reason = (Status.RUNNING, "") if job.model is not None else (Status.PENDING, _PREPARING)
    sites = {client: check for client, check in job.sites.items() if check.problem is None}
    again = replace(job, status=status, reason=reason, abandoned_in_a_row=0, next_try_at=0.0, setbacks={}, sites=sites)
    again = replace(again, wishes=whole.resumed(job.wishes))
    return _Outcome(again, (Effect.WAKE_AGGREGATOR,) if status is Status.PENDING else ())


def _cancel(job: Job, event: Cancel, now: float) -> _Outcome:
    cancelled = replace(job, status=Status.CANCELLED, reason=f"cancelled by {_who(event)}")
    return _without_round(cancelled, "the job was cancelled", now)


def _who(event: Pause | Cancel) -> str:
    return event.by or "the operator"


def _described(job: Job, event: Describe, now: float) -> _Outcome:
    tags, description = job.labels.tags, job.labels.description
    labels = Labels(
        tags if event.tags is None else event.tags, description if event.description is None else event.description
    )
    return _Outcome(job if labels == job.labels else replace(job, labels=labels))


def _roll_back(job: Job, event: RollBack, now: float) -> _Outcome:
    back = rolled_back(job, event.model)
    if back is job:
        return _Outcome(job)  # asked for a second time
    return _without_round(back, f"the job was rolled back to version {event.model.version}", now)


def _without_round(job: Job, reason: str, now: float) -> _Outcome:
    """The job, its round in flight abandoned."""
    if job.round is None:
        return _Outcome(job)
    step = rounds.advance(job.round, Abandon(reason), now, job.policy(job.round.kind))
    return _Outcome(replace(job, round=None), step.effects, step.round)


def _tick(job: Job, event: Tick, now: float) -> _Outcome:
    if job.round is not None:
        return _in_round(job, InRound(job.round.number, event), now)
    if job.status is not Status.RUNNING or job.closing is not None or now < job.next_try_at:
        return _Outcome(job)
    spec, version = job.parsed, job.ready().model.version
    behind = job.rounds_behind(version)
    trains = behind < spec.rounds.count and not is_worn_out(job.best, spec)
    kind: Literal["train", "evaluate"] = "train" if trains else "evaluate"
    number = job.rounds_opened + 1
    evaluates, tries = not trains or spec.evaluates(behind), job.abandoned_in_a_row
    opened = rounds.open_round(number, kind, version, evaluates, now, job.policy(kind), tries)
    return _Outcome(replace(job, round=opened, rounds_opened=number))


def _aggregation_failed(job: Job, event: AggregationFailed, now: float) -> _Outcome:
    failed = _in_round(job, InRound(event.number, Abandon(f"aggregation failed: {event.reason}", event.dropped)), now)
    return failed._replace(job=replace(failed.job, status=Status.PAUSED)) if event.lost else failed


def _of_weights(job: Job, event: WeightsWanted | WeightsMade | WeightsLost, now: float) -> _Outcome:
    after = whole.after(job, event)
    return _Outcome(after, (Effect.WAKE_AGGREGATOR,) if after is not job else ())


def _in_round(job: Job, event: InRound, now: float) -> _Outcome:
    if job.round is None or job.round.number != event.number:
        raise RoundNotInFlight(f"round {event.number} of job {job.id} is not in flight; ask for the next task")
    step = rounds.advance(job.round, event.event, now, job.policy(job.round.kind))
    if step.round is job.round:
        return _Outcome(job)
    if isinstance(event.event, Evaluated):
        check_counts(job.parsed, event.event.result)
    if not step.round.phase.is_final:
        return _Outcome(replace(job, round=step.round), step.effects)
    after = after_round(replace(job, round=None), step.round, now)
    effects = step.effects if after.closing is None else (*step.effects, Effect.WAKE_AGGREGATOR)
    return _Outcome(after, effects, step.round)


def _loaded_back(job: Job, event: LoadedBack, now: float) -> _Outcome:
    """The end of a job. A model that differs can be downloaded all the same.

    Whole weights were made to be looked at: who asks for some later waits for them, and the disk holds the chain alone.
    """
    if job.closing is None:
        raise IllegalTransition(f"job {job.id} has rounds to come: its model is loaded back behind the last one")
    current = job.ready().model.version
    if event.version != current:  # it was rolled back meanwhile
        raise IllegalTransition(
            f"version {event.version} was loaded back, but job {job.id} ends with version {current}"
        )
    status = Status.COMPLETED if event.difference is None else Status.FAILED
    way_out = whole.way_back(job, current) if status is Status.FAILED else None
    reason = "; ".join(filter(None, (event.difference, job.closing, event.unchecked, way_out)))
    return _Outcome(replace(job, status=status, reason=reason, closing=None, whole={}))


_Row = Transition[Callable[[Job, Any, float], _Outcome], Status]
_PENDING, _RUNNING, _PAUSED, _COMPLETED, _FAILED, _CANCELLED = Status


def _weights(*statuses: Status) -> dict[type, _Row]:
    """Rows for whole weights, which people may ask for whenever there is a version."""
    same: _Row = to(_of_weights, statuses[0])
    return {WeightsWanted: same, WeightsMade: same, WeightsLost: to(_of_weights, *statuses)}


def _of_round(*statuses: Status) -> dict[type, _Row]:
    """Rows for the round in flight. Without a status: no round is in flight, and each event is refused."""
    return {InRound: to(_in_round, *statuses), AggregationFailed: to(_aggregation_failed, *statuses)}


_ROWS: dict[Status, dict[type, _Row]] = {
    _PENDING: {
        **_of_round(),
        SitesSeen: to(_sites_seen, _PENDING, _PAUSED),
        SiteChecked: to(_site_checked, _PENDING),
        PreparedModel: to(_prepared, _RUNNING),
        PreparationFailed: to(_preparation_failed, _FAILED),
        Tick: to(_tick, _PENDING),
        Cancel: to(_cancel, _CANCELLED),
    },
    _RUNNING: {
        **_of_round(_RUNNING, _PAUSED),
        SitesSeen: to(_sites_seen, _RUNNING, _PAUSED),
        SiteChecked: to(_site_checked, _RUNNING),
        LoadedBack: to(_loaded_back, _COMPLETED, _FAILED),
        Tick: to(_tick, _RUNNING, _PAUSED),
        Pause: to(_pause, _PAUSED),
        Resume: to(_asked_again, _RUNNING),
        **_weights(_RUNNING, _PAUSED),
        RollBack: to(_roll_back, _RUNNING),
        Cancel: to(_cancel, _CANCELLED),
    },
    _PAUSED: {
        **_of_round(_PAUSED),
        SitesSeen: to(_sites_seen, _PAUSED),
        SiteChecked: to(_site_checked, _PAUSED),
        PreparedModel: to(_prepared, _PAUSED),  # it was paused while the model was read
        PreparationFailed: to(_preparation_failed, _FAILED),
        LoadedBack: to(_loaded_back, _COMPLETED, _FAILED),
        Tick: to(_tick, _PAUSED),
        Pause: to(_asked_again, _PAUSED),
        Resume: to(_resume, _RUNNING, _PENDING),
        **_weights(_PAUSED),
        RollBack: to(_roll_back, _PAUSED),
        Cancel: to(_cancel, _CANCELLED),
    },
    _COMPLETED: {**_of_round(), **_weights(_COMPLETED), RollBack: to(_roll_back, _PAUSED)},
    _FAILED: {**_of_round(), **_weights(_FAILED), RollBack: to(_roll_back, _PAUSED)},
    _CANCELLED: {**_of_round(), **_weights(_CANCELLED), Cancel: to(_asked_again, _CANCELLED)},
}
TRANSITIONS: dict[tuple[Status, type], _Row] = {
    (status, event): row for status, rows in _ROWS.items() for event, row in rows.items()
} | {(status, Describe): to(_described, status) for status in Status}
