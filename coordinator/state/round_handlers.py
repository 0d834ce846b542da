"""What each event makes of a round: the handlers of `coordinator.state.round.TRANSITIONS`.

An unchanged round comes back as the very same object. How far the round goes afterwards: `round_settling`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from coordinator.state.admission import check_late, check_open, holds, participant_of
from coordinator.state.errors import IllegalTransition
from coordinator.state.round_settling import move, selection_reason
from coordinator.state.round_state import (
    Abandon,
    Aggregated,
    Candidates,
    ClientEvent,
    ClientFailed,
    Evaluated,
    Participant,
    Phase,
    Policy,
    Reported,
    Round,
    TaskTaken,
    Tick,
    UpdateLost,
)
from fedgalore.selection import choose_cohort


def _with(round: Round, client: str, participant: Participant) -> Round:
    return replace(round, participants={**round.participants, client: participant})


def choose(round: Round, event: Candidates, now: float, policy: Policy) -> Round:
    present = len(event.names)
    waited = now - round.opened_at >= policy.selection_wait_s
    # The first cohort is drawn from all whose data fit, not from those whose check was over first.
    checking = event.checking > 0 and round.number == 1 and not waited
    if checking or (present < policy.cohort_size and not (waited and present >= policy.min_clients)):
        reason = selection_reason(event, policy)
        return round if reason == round.reason else replace(round, reason=reason)
    if round.kind == "evaluate":
        cohort = tuple(sorted(event.names))
    else:
        cohort = _draw(round, event.names, policy.cohort_size, policy.min_clients, event, policy)
    chosen = replace(
        round,
        deadline_at=now + policy.deadline_s,
        seats=len(cohort),
        participants={name: Participant() for name in cohort},
    )
    return move(chosen, Phase.CONFIGURATION, now)


def step_in(round: Round, event: Candidates, now: float, policy: Policy) -> Round:
    """Idle clients take the seats of participants that failed or fell silent."""
    free = round.free_seats(event.silent)
    idle = [name for name in event.names if name not in round.participants]
    needed = policy.min_clients - (len(round.participants) - round.failures)
    drawn = _draw(round, idle, free, needed, event, policy) if round.remaining_s(now) else ()
    if not drawn:
        return round
    return replace(round, participants={**round.participants, **{name: Participant() for name in drawn}})


def _draw(
    round: Round, names: Collection[str], size: int, needed: int, event: Candidates, policy: Policy
) -> tuple[str, ...]:
    """`size` of the names; of those that rest, only where fewer than `needed` others are there."""
    rested = [name for name in names if name not in event.resting]
    drawn_from = rested if len(rested) >= needed else names
    return choose_cohort(drawn_from, size, policy.seed, round.model_version + 1, round.tries, event.resting)


def stay(round: Round, event: Tick, now: float, policy: Policy) -> Round:
    return round


def take(round: Round, event: TaskTaken, now: float, policy: Policy) -> Round:
    participant = check_open(round, event.client)
    if participant.taken_at is not None:
        return round
    return _with(round, event.client, replace(participant, taken_at=now))


def report(round: Round, event: Reported, now: float, policy: Policy) -> Round:
    if holds(round, event):
        return round
    participant = check_open(round, event.client)
    if round.kind == "evaluate":
        raise IllegalTransition(f"round {round.number} only evaluates: send an evaluation, not an update")
    reported = replace(participant, receipt=event.receipt, taken_at=_first(participant.taken_at, now))
    return _with(round, event.client, reported)


def evaluate(round: Round, event: Evaluated, now: float, policy: Policy) -> Round:
    if holds(round, event):
        return round
    participant = check_open(round, event.client)
    if event.result.model_version != round.model_version:
        raise IllegalTransition(
            f"model_version is {event.result.model_version}, but round {round.number} evaluates {round.model_version}"
        )
    evaluated = replace(participant, evaluation=event.result, taken_at=_first(participant.taken_at, now))
    return _with(round, event.client, evaluated)


def fail(round: Round, event: ClientFailed, now: float, policy: Policy) -> Round:
    participant = participant_of(round, event.client)
    if participant.failure is not None or round.has_reported(event.client):
        return round  # said before, or of no consequence any more
    return _with(round, event.client, replace(participant, failure=event.reason, failure_code=event.code))


def late(round: Round, event: ClientEvent, now: float, policy: Policy) -> Round:
    check_late(round, event)
    return round


def commit(round: Round, event: Aggregated, now: float, policy: Policy) -> Round:
    if event.result.version != round.model_version + 1:
        raise IllegalTransition(
            f"result.version is {event.result.version}, but round {round.number} makes {round.model_version + 1}"
        )
    done = replace(
        _without(round, event.dropped),
        result=event.result,
        timings=event.timings,
        statistics=event.statistics,
        alignment=event.alignment,
    )
    without = f"; left out: {', '.join(sorted(event.dropped))}" if event.dropped else ""
    reason = f"version {event.result.version} from {round.reports - len(event.dropped)} updates{without}"
    return move(done, Phase.COMMITTED, now, reason)


def _without(round: Round, dropped: Mapping[str, str]) -> Round:
    """The round with the reasons why updates were left out."""
    left_out = {client: replace(participant_of(round, client), dropped=reason) for client, reason in dropped.items()}
    return replace(round, participants={**round.participants, **left_out})


def lose(round: Round, event: UpdateLost, now: float, policy: Policy) -> Round:
    participant = participant_of(round, event.client)
    if participant.receipt is None or participant.receipt.blob != event.blob:
        return round  # it has been asked for already
    asked = _with(round, event.client, replace(participant, taken_at=None, receipt=None, lost=event.reason))
    began = {phase: at for phase, at in round.phase_at.items() if phase != Phase.AGGREGATION}
    return replace(asked, phase=Phase.REPORTING, phase_at=began, deadline_at=now + policy.deadline_s)


def abandon(round: Round, event: Abandon, now: float, policy: Policy) -> Round:
    return move(_without(round, event.dropped), Phase.ABANDONED, now, event.reason)


def _first(taken_at: float | None, now: float) -> float:
    return now if taken_at is None else taken_at
