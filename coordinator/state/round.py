"""One round as a pure state machine (Bonawitz et al. 2019, section 3).

    SELECTION -> CONFIGURATION -> REPORTING -> AGGREGATION -> COMMITTED | ABANDONED

An update that turns out to be damaged in AGGREGATION is asked for again: back to REPORTING, with a deadline of its own.
`advance` is the only place where a round moves. It looks (phase, event) up in a table; what the table lacks raises
and changes nothing. Time is passed in as `now`, seconds since the epoch. An unchanged round comes back as the very
same object, so a caller can tell by `is` whether there is anything to save.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from coordinator.state.errors import IllegalTransition, NotParticipant, RoundClosed
from coordinator.state.round_state import (
    Abandon,
    Aggregated,
    Candidates,
    ClientFailed,
    Effect,
    Evaluated,
    Participant,
    Phase,
    Policy,
    Reported,
    Round,
    RoundEvent,
    TaskTaken,
    Tick,
    UpdateLost,
)
from fedgalore.selection import choose_cohort


class RoundStep(NamedTuple):
    round: Round
    effects: tuple[Effect, ...]
    reason: str


def open_round(
    number: int, kind: Literal["train", "evaluate"], model_version: int, evaluate: bool, now: float, policy: Policy
) -> Round:
    """A fresh round in SELECTION."""
    return Round(
        number=number,
        kind=kind,
        model_version=model_version,
        phase=Phase.SELECTION,
        reason=_selection_reason(Candidates(()), policy),
        opened_at=now,
        evaluate=evaluate,
        phase_at={Phase.SELECTION: now},
    )


def advance(round: Round, event: RoundEvent, now: float, policy: Policy) -> RoundStep:
    """The round after `event`, what is to be done about it, and where it stands in words.

    Raises:
        IllegalTransition: the phase has no row for this event.
        NotParticipant: a client speaks that was not selected.
        RoundClosed: a client speaks too late, or after it gave up. A report that the round holds already is no
            error, then or ever: the round comes back unchanged, and the first report stands.
    """
    handler = _TABLE.get((round.phase, type(event)))
    if handler is None:
        raise IllegalTransition(f"round {round.number} is in {round.phase}: {type(event).__name__} has no place there")
    after = handler(round, event, now, policy)
    if after is not round or isinstance(event, Tick | Candidates):
        after = _settle(after, now, policy)
    if after is not round and not after.phase.is_final:
        after = replace(after, reason=explain(after, now, policy))
    return RoundStep(after, _effects(round, after), explain(after, now, policy))


def explain(round: Round, now: float, policy: Policy) -> str:
    """Where the round stands, for people: "waiting: 2 of 3 reports, 41 s left"."""
    left = f"{round.remaining_s(now):.0f} s left"
    match round.phase:
        case Phase.CONFIGURATION:
            taken = sum(one.taken_at is not None for one in round.participants.values())
            return f"waiting: {taken} of {len(round.participants)} tasks taken, {left}"
        case Phase.REPORTING:
            failed = f", {round.failures} failed" if round.failures else ""
            return f"waiting: {round.reports} of {_goal(round, policy)} reports{failed}, {left}"
        case Phase.AGGREGATION:
            return f"aggregating {round.reports} updates"
        case _:
            return round.reason


def _goal(round: Round, policy: Policy) -> int:
    """Reports that close the round at once: everybody's in an evaluation, else the goal as far as the cohort goes."""
    size = len(round.participants)
    return size if round.kind == "evaluate" else min(policy.goal, size)


def _selection_reason(found: Candidates, policy: Policy) -> str:
    busy = f", {found.busy} more are busy with other jobs" if found.busy else ""
    present = f"{len(found.names)} of {policy.cohort_size} clients with the data{busy}"
    return f"waiting: {present}; {policy.min_clients} do after {policy.selection_wait_s:g} s"


def _move(round: Round, phase: Phase, now: float, reason: str = "") -> Round:
    return replace(round, phase=phase, reason=reason, phase_at={**round.phase_at, phase: now})


def _settle(round: Round, now: float, policy: Policy) -> Round:
    """Lets the round go as far as what it holds and the time allow."""
    if round.phase is Phase.SELECTION:
        # Training waits for clients for ever; a finished model is not held back because nobody can evaluate it.
        if round.kind == "evaluate" and now - round.opened_at >= policy.deadline_s:
            return _move(round, Phase.ABANDONED, now, f"no client to evaluate within {policy.deadline_s:g} s")
        return round
    if round.phase is Phase.CONFIGURATION and (
        round.reports or all(one.taken_at is not None or one.failure for one in round.participants.values())
    ):
        return _settle(_move(round, Phase.REPORTING, now), now, policy)
    if round.phase in (Phase.CONFIGURATION, Phase.REPORTING):
        return _count(round, now, policy)
    return round


def _count(round: Round, now: float, policy: Policy) -> Round:
    """Ends the reporting when the goal is reached, everybody has spoken, time is up, or hope is lost."""
    size, reports, failures = len(round.participants), round.reports, round.failures
    overdue = round.deadline_at is not None and now >= round.deadline_at
    if reports >= _goal(round, policy) or (reports >= policy.min_clients and (overdue or reports + failures == size)):
        if round.kind == "train":
            return _move(round, Phase.AGGREGATION, now)
        return _move(round, Phase.COMMITTED, now, f"version {round.model_version} evaluated by {reports} clients")
    if size - failures < policy.min_clients:
        causes = "; ".join(f"{c}: {one.failure}" for c, one in sorted(round.participants.items()) if one.failure)
        return _move(
            round,
            Phase.ABANDONED,
            now,
            f"{failures} of {size} clients failed, so min_clients ({policy.min_clients}) cannot be reached: {causes}",
        )
    if overdue:
        return _move(
            round,
            Phase.ABANDONED,
            now,
            f"the deadline passed with {reports} of at least {policy.min_clients} reports (rounds.min_clients)",
        )
    return round


def _effects(before: Round, after: Round) -> tuple[Effect, ...]:
    if before.phase is after.phase:
        return ()
    match after.phase:
        case Phase.CONFIGURATION:
            return (Effect.WAKE_AGENTS,)
        case Phase.REPORTING if before.phase is Phase.AGGREGATION:  # an update is asked for again
            return (Effect.WAKE_AGENTS,)
        case Phase.AGGREGATION:
            return (Effect.WAKE_AGGREGATOR,)
        case _:
            return ()


def _participant(round: Round, client: str) -> Participant:
    try:
        return round.participants[client]
    except KeyError:
        raise NotParticipant(
            f"client {client!r} was not selected into round {round.number}; ask for the next task"
        ) from None


def _with(round: Round, client: str, participant: Participant) -> Round:
    return replace(round, participants={**round.participants, client: participant})


def _choose(round: Round, event: Candidates, now: float, policy: Policy) -> Round:
    present = len(event.names)
    waited = now - round.opened_at >= policy.selection_wait_s
    if present < policy.cohort_size and not (waited and present >= policy.min_clients):
        reason = _selection_reason(event, policy)
        return round if reason == round.reason else replace(round, reason=reason)
    if round.kind == "evaluate":
        cohort = tuple(sorted(event.names))
    else:
        cohort = choose_cohort(event.names, policy.cohort_size, policy.seed, round.number)
    chosen = replace(round, deadline_at=now + policy.deadline_s, participants={name: Participant() for name in cohort})
    return _move(chosen, Phase.CONFIGURATION, now)


def _stay(round: Round, event: Tick, now: float, policy: Policy) -> Round:
    return round


def _taken(round: Round, event: TaskTaken, now: float, policy: Policy) -> Round:
    one = _open_to(round, event.client)
    return round if one.taken_at is not None else _with(round, event.client, replace(one, taken_at=now))


def _reported(round: Round, event: Reported, now: float, policy: Policy) -> Round:
    if _holds(round, event):
        return round
    one = _open_to(round, event.client)
    if round.kind == "evaluate":
        raise IllegalTransition(f"round {round.number} only evaluates: send an evaluation, not an update")
    return _with(round, event.client, replace(one, receipt=event.receipt, taken_at=_first(one.taken_at, now)))


def _evaluated(round: Round, event: Evaluated, now: float, policy: Policy) -> Round:
    if _holds(round, event):
        return round
    one = _open_to(round, event.client)
    if event.result.model_version != round.model_version:
        raise IllegalTransition(
            f"model_version is {event.result.model_version}, but round {round.number} evaluates {round.model_version}"
        )
    return _with(round, event.client, replace(one, evaluation=event.result, taken_at=_first(one.taken_at, now)))


def _failed(round: Round, event: ClientFailed, now: float, policy: Policy) -> Round:
    one = _participant(round, event.client)
    if one.failure is not None or round.has_reported(event.client):
        return round  # said before, or of no consequence any more
    return _with(round, event.client, replace(one, failure=event.reason))


def _late(round: Round, event: TaskTaken | Reported | Evaluated | ClientFailed, now: float, policy: Policy) -> Round:
    _participant(round, event.client)
    if _holds(round, event):
        return round
    raise RoundClosed(f"round {round.number} is closed ({round.phase}: {round.reason}); ask for the next task")


def _committed(round: Round, event: Aggregated, now: float, policy: Policy) -> Round:
    if event.result.version != round.model_version + 1:
        raise IllegalTransition(
            f"result.version is {event.result.version}, but round {round.number} makes {round.model_version + 1}"
        )
    told = {client: replace(_participant(round, client), dropped=reason) for client, reason in event.dropped.items()}
    done = replace(
        round,
        result=event.result,
        timings=event.timings,
        statistics=event.statistics,
        participants={**round.participants, **told},
    )
    without = f"; left out: {', '.join(sorted(told))}" if told else ""
    made = f"version {event.result.version} from {round.reports - len(told)} updates{without}"
    return _move(done, Phase.COMMITTED, now, made)


def _lost(round: Round, event: UpdateLost, now: float, policy: Policy) -> Round:
    one = _participant(round, event.client)
    if one.receipt is None or one.receipt.blob != event.blob:
        return round  # told before
    asked = _with(round, event.client, replace(one, taken_at=None, receipt=None, lost=event.reason))
    began = {phase: at for phase, at in round.phase_at.items() if phase != Phase.AGGREGATION}
    return replace(asked, phase=Phase.REPORTING, phase_at=began, deadline_at=now + policy.deadline_s)


def _abandoned(round: Round, event: Abandon, now: float, policy: Policy) -> Round:
    return _move(round, Phase.ABANDONED, now, event.reason)


def _holds(round: Round, event: TaskTaken | Reported | Evaluated | ClientFailed) -> bool:
    """Whether this very thing was told before, by a client whose answer may have been lost on the way."""
    one = _participant(round, event.client)
    match event:
        case Reported():
            return one.receipt is not None
        case Evaluated():
            return one.evaluation is not None
        case ClientFailed():
            return one.failure is not None
        case _:
            return False


def _open_to(round: Round, client: str) -> Participant:
    one = _participant(round, client)
    if one.failure is not None:
        raise RoundClosed(
            f"round {round.number} is closed to client {client!r}: it gave up ({one.failure}); ask for the next task"
        )
    return one


def _first(taken_at: float | None, now: float) -> float:
    return now if taken_at is None else taken_at


_Row = dict[type, Callable[[Round, Any, float, Policy], Round]]
_CLIENT_EVENTS: _Row = {
    TaskTaken: _taken,
    Reported: _reported,
    Evaluated: _evaluated,
    ClientFailed: _failed,
}
_LATE: _Row = dict.fromkeys(_CLIENT_EVENTS, _late)
# Before the selection the round has no participants, so `_late` answers NotParticipant.
_ROWS: dict[Phase, _Row] = {
    Phase.SELECTION: {Candidates: _choose, Tick: _stay, Abandon: _abandoned, **_LATE},
    Phase.CONFIGURATION: {Tick: _stay, Abandon: _abandoned, **_CLIENT_EVENTS},
    Phase.REPORTING: {Tick: _stay, Abandon: _abandoned, UpdateLost: _lost, **_CLIENT_EVENTS},  # the second of two
    Phase.AGGREGATION: {Tick: _stay, Abandon: _abandoned, Aggregated: _committed, UpdateLost: _lost, **_LATE},
    Phase.COMMITTED: _LATE,
    Phase.ABANDONED: _LATE,
}
_TABLE = {(phase, event): handler for phase, row in _ROWS.items() for event, handler in row.items()}
