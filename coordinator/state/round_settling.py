"""Moves a round on without an event, by its reports and by the time; says in words for people where it stands."""

from __future__ import annotations

from dataclasses import replace

from coordinator.state.round_state import Candidates, Phase, Policy, Round


def settle(round: Round, now: float, policy: Policy, full: bool = False) -> Round:
    """The round, moved on as far as its reports and the time allow; the same object where nothing changes.

    Args:
        full: nobody is there who could take a free seat. Until that is known, failures end no round.
    """
    if round.phase is Phase.SELECTION:
        # Training waits for clients for ever; a finished model is not held back because nobody can evaluate it.
        if round.kind == "evaluate" and now - round.opened_at >= policy.deadline_s:
            return move(round, Phase.ABANDONED, now, f"no client to evaluate within {policy.deadline_s:g} s")
        return round
    if round.phase is Phase.CONFIGURATION and (round.reports or round.everybody_began):
        return settle(move(round, Phase.REPORTING, now), now, policy, full)
    return _count(round, now, policy, full) if round.phase.takes_reports else round


def _count(round: Round, now: float, policy: Policy, full: bool) -> Round:
    """Ends the reporting: at the goal, at the last answer, at the deadline, or when too few clients are left."""
    size, reports, failures = len(round.participants), round.reports, round.failures
    overdue = round.deadline_at is not None and now >= round.deadline_at
    ends = overdue or (full and reports + failures == size)
    if reports >= _goal(round, policy) or (reports >= policy.min_clients and ends):
        if round.kind == "train":
            return move(round, Phase.AGGREGATION, now)
        return move(round, Phase.COMMITTED, now, f"version {round.model_version} evaluated by {reports} clients")
    trains, nobody = round.kind == "train", f"nobody has evaluated version {round.model_version}"
    if full and size - failures < policy.min_clients:
        wanting = f"rounds.min_clients ({policy.min_clients}) cannot be reached" if trains else nobody
        reason = f"{failures} of {size} clients failed, and no other is idle, so {wanting}: {_causes(round)}"
        return move(round, Phase.ABANDONED, now, reason)
    if overdue:
        wanting = f"with {reports} of at least {policy.min_clients} reports (rounds.min_clients)"
        reason = f"the deadline passed {wanting if trains else f'and {nobody}'}: {_causes(round, 'no report')}"
        return move(round, Phase.ABANDONED, now, reason)
    return round


def _causes(round: Round, of_open_clients: str = "") -> str:
    """Each client that failed, and each that is still open where there are words for those, once with the cause."""
    causes = {client: each.failure for client, each in round.participants.items() if each.failure}
    if of_open_clients:
        causes |= dict.fromkeys(round.open_clients, of_open_clients)
    return "; ".join(f"{client}: {cause}" for client, cause in sorted(causes.items()))


def move(round: Round, phase: Phase, now: float, reason: str = "") -> Round:
    """The round in its next phase, entered now."""
    return replace(round, phase=phase, reason=reason, phase_at={**round.phase_at, phase: now})


def explain(round: Round, now: float, policy: Policy) -> str:
    """Where the round stands, for people: "waiting: 2 of 3 reports, 41 s left"."""
    left = f"{round.remaining_s(now):.0f} s left"
    match round.phase:
        case Phase.CONFIGURATION:
            taken = sum(participant.taken_at is not None for participant in round.participants.values())
            return f"waiting: {taken} of {len(round.participants)} tasks taken, {left}"
        case Phase.REPORTING:
            failed = f", {round.failures} failed" if round.failures else ""
            return f"waiting: {round.reports} of {_goal(round, policy)} reports{failed}, {left}"
        case Phase.AGGREGATION:
            return f"aggregating {round.reports} updates"
        case _:
            return round.reason


def selection_reason(candidates: Candidates, policy: Policy) -> str:
    """What a round in SELECTION waits for."""
    busy = f", {candidates.busy} more are busy with other jobs" if candidates.busy else ""
    checking = f", {candidates.checking} more check their data" if candidates.checking else ""
    present = f"{len(candidates.names)} of {policy.cohort_size} clients with the data{busy}{checking}"
    return f"waiting: {present}; {policy.min_clients} do after {policy.selection_wait_s:g} s"


def _goal(round: Round, policy: Policy) -> int:
    """How many reports end the reporting: in an evaluation all, else the goal, or the seats where those are fewer."""
    return len(round.participants) if round.kind == "evaluate" else min(policy.goal, round.seats)
