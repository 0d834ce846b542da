"""What a job makes of clients that fail and of rounds that are abandoned: who rests, and when it tries again.

A client that fails rests for as long as its round took, and twice as long for each failure that follows; the rounds of
that time draw others where there are enough. A report clears its record. After an abandoned round the job waits for
5 s, then for 10 s, 20 s and so on; after `TRIES_UNTIL_PAUSE` of them in a row it waits for a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from coordinator.state.round_state import Participant, Phase, Round

TRIES_UNTIL_PAUSE = 5
FIRST_WAIT_S = 5.0
LONGEST_WAIT_S = 300.0
LEAST_REST_S = 10.0
LONGEST_REST_S = 3600.0


@dataclass(frozen=True)
class Setback:
    """A client's failures in a row in a job: how many, the last one's cause, and until when the client rests."""

    reason: str
    in_a_row: int
    rests_until: float


def wait_s(abandoned_in_a_row: int) -> float:
    """Seconds from the last of so many abandoned rounds to the next try."""
    return float(min(FIRST_WAIT_S * 2.0 ** (abandoned_in_a_row - 1), LONGEST_WAIT_S))


def after_round(before: Mapping[str, Setback], closed: Round, now: float) -> dict[str, Setback]:
    """The clients' setbacks once a round has closed."""
    setbacks = dict(before)
    for client, participant in closed.participants.items():
        cause = _cause(closed, client, participant)
        if closed.has_reported(client) and cause is None:
            setbacks.pop(client, None)
        elif cause is not None:
            in_a_row = setbacks[client].in_a_row + 1 if client in setbacks else 1
            rest_s = max(LEAST_REST_S, now - closed.opened_at) * 2.0 ** min(in_a_row - 1, 32)
            setbacks[client] = Setback(cause, in_a_row, now + min(rest_s, LONGEST_REST_S))
    return setbacks


def _cause(closed: Round, client: str, participant: Participant) -> str | None:
    """Why a client counts as failed; None where it has reported, or the round ended before its time.

    An update that was left out counts where that ended the round: the next try does better without it.
    """
    if closed.has_reported(client):
        return participant.dropped if closed.phase is Phase.ABANDONED else None
    if participant.failure is not None or closed.deadline_at is None:
        return participant.failure
    ended = closed.phase_at.get(Phase.AGGREGATION, closed.phase_at[closed.phase])
    return "it did not report before the deadline (rounds.deadline_s)" if ended >= closed.deadline_at else None


def resting(setbacks: Mapping[str, Setback], now: float) -> frozenset[str]:
    """The clients that are drawn only where there are too few others."""
    return frozenset(client for client, each in setbacks.items() if now < each.rests_until)


def pause_reason(abandoned_in_a_row: int, closed: Round, setbacks: Mapping[str, Setback]) -> str:
    """Why a job waits for a person: the last round's reason, then each client that it does not name, once."""
    others = sorted(setbacks.keys() - closed.participants.keys())
    also = "; ".join(f"{client}: {setbacks[client].reason}" for client in others)
    return (
        f"{abandoned_in_a_row} rounds in a row were abandoned, the last, round {closed.number}, because: "
        f"{closed.reason}{f'; earlier: {also}' if also else ''}. Mend the cause, restart the agent of a site whose "
        "data or settings you changed, and resume the job"
    )
