"""One round as a pure state machine (Bonawitz et al. 2019, section 3).

    SELECTION -> CONFIGURATION -> REPORTING -> AGGREGATION -> COMMITTED | ABANDONED

Idle clients step in for participants that failed or fell silent: failures end a round only where nobody is idle. An
update that turns out to be damaged in AGGREGATION is asked for again: back to REPORTING, with a deadline of its own.
`advance` is the only place where a round moves. It looks (phase, event) up in `TRANSITIONS`; what the table lacks
raises and changes nothing. Time is passed in as `now`, seconds since the epoch. An unchanged round comes back as the
very same object, so a caller can tell by `is` whether there is anything to save. What an event does is in
`round_handlers`; afterwards the round goes on by itself as far as it can, by `round_settling`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from coordinator.state import round_handlers as handlers
from coordinator.state.errors import IllegalTransition
from coordinator.state.round_settling import explain, selection_reason, settle
from coordinator.state.round_state import (
    Abandon,
    Aggregated,
    Candidates,
    ClientFailed,
    Effect,
    Evaluated,
    Phase,
    Policy,
    Reported,
    Round,
    RoundEvent,
    TaskTaken,
    Tick,
    UpdateLost,
)
from fedgalore.process.transitions import Transition, to


class RoundStep(NamedTuple):
    round: Round
    effects: tuple[Effect, ...]
    reason: str


def open_round(
    number: int,
    kind: Literal["train", "evaluate"],
    model_version: int,
    evaluate: bool,
    now: float,
    policy: Policy,
    tries: int = 0,
) -> Round:
    """A fresh round in SELECTION."""
    return Round(
        number=number,
        kind=kind,
        model_version=model_version,
        phase=Phase.SELECTION,
        reason=selection_reason(Candidates(()), policy),
        opened_at=now,
        evaluate=evaluate,
        tries=tries,
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
    row = TRANSITIONS.get((round.phase, type(event)))
    if row is None:
        raise IllegalTransition(f"round {round.number} is in {round.phase}: {type(event).__name__} has no place there")
    after = row.handler(round, event, now, policy)
    if after is not round or isinstance(event, Tick | Candidates):
        full = isinstance(event, Candidates) and after is round
        after = settle(after, now, policy, full)
    row.check(round.phase, event, after.phase)
    reason = explain(after, now, policy)
    if after is not round and not after.phase.is_final:
        after = replace(after, reason=reason)
    return RoundStep(after, _effects(round, after), reason)


def _effects(before: Round, after: Round) -> tuple[Effect, ...]:
    if before.phase is after.phase:
        return (Effect.WAKE_AGENTS,) if len(after.participants) > len(before.participants) else ()
    match after.phase:
        case Phase.CONFIGURATION:
            return (Effect.WAKE_AGENTS,)
        case Phase.REPORTING if before.phase is Phase.AGGREGATION:  # an update is asked for again
            return (Effect.WAKE_AGENTS,)
        case Phase.AGGREGATION:
            return (Effect.WAKE_AGGREGATOR,)
        case _:
            return ()


_Row = Transition[Callable[[Round, Any, float, Policy], Round], Phase]
_SELECTION, _CONFIGURATION, _REPORTING, _AGGREGATION, _COMMITTED, _ABANDONED = Phase
_ABANDON: dict[type, _Row] = {Abandon: to(handlers.abandon, _ABANDONED)}


def _held(phase: Phase) -> dict[type, _Row]:
    """What clients say too late: what the phase's round holds already changes nothing, all else is refused."""
    late: dict[type, _Row] = {event: to(handlers.late, phase) for event in (Reported, Evaluated, ClientFailed)}
    return {TaskTaken: to(handlers.late), **late}


_ROWS: dict[Phase, dict[type, _Row]] = {
    _SELECTION: {
        Candidates: to(handlers.choose, _SELECTION, _CONFIGURATION, _ABANDONED),
        Tick: to(handlers.stay, _SELECTION, _ABANDONED),
        # Nobody is selected yet, so every client hears that it was not.
        **dict.fromkeys((TaskTaken, Reported, Evaluated, ClientFailed), to(handlers.late)),
        **_ABANDON,
    },
    _CONFIGURATION: {
        Candidates: to(handlers.step_in, _CONFIGURATION, _ABANDONED),
        Tick: to(handlers.stay, _CONFIGURATION, _ABANDONED),
        TaskTaken: to(handlers.take, _CONFIGURATION, _REPORTING, _ABANDONED),
        Reported: to(handlers.report, _REPORTING, _AGGREGATION, _ABANDONED),
        Evaluated: to(handlers.evaluate, _CONFIGURATION, _REPORTING, _COMMITTED, _ABANDONED),
        ClientFailed: to(handlers.fail, _CONFIGURATION, _REPORTING, _ABANDONED),
        **_ABANDON,
    },
    _REPORTING: {
        Candidates: to(handlers.step_in, _REPORTING, _AGGREGATION, _COMMITTED, _ABANDONED),
        Tick: to(handlers.stay, _REPORTING, _AGGREGATION, _COMMITTED, _ABANDONED),
        TaskTaken: to(handlers.take, _REPORTING, _AGGREGATION, _COMMITTED, _ABANDONED),
        Reported: to(handlers.report, _REPORTING, _AGGREGATION, _ABANDONED),
        Evaluated: to(handlers.evaluate, _REPORTING, _AGGREGATION, _COMMITTED, _ABANDONED),
        ClientFailed: to(handlers.fail, _REPORTING, _AGGREGATION, _COMMITTED, _ABANDONED),
        UpdateLost: to(handlers.lose, _REPORTING),  # the second of two
        **_ABANDON,
    },
    _AGGREGATION: {
        **_held(_AGGREGATION),
        Tick: to(handlers.stay, _AGGREGATION),
        Aggregated: to(handlers.commit, _COMMITTED),
        UpdateLost: to(handlers.lose, _REPORTING, _AGGREGATION),
        **_ABANDON,
    },
    _COMMITTED: _held(_COMMITTED),
    _ABANDONED: _held(_ABANDONED),
}
TRANSITIONS: dict[tuple[Phase, type], _Row] = {
    (phase, event): row for phase, rows in _ROWS.items() for event, row in rows.items()
}
