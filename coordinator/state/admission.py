"""Whether a round still takes something from a client: asked before bytes are accepted, and changing nothing."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.state.errors import NotParticipant, RoundClosed
from coordinator.state.job_state import Job
from coordinator.state.round_state import (
    ClientEvent,
    ClientFailed,
    Evaluated,
    Participant,
    Reported,
    Round,
    UpdateReceipt,
)


@dataclass(frozen=True)
class Admitted:
    """The round in flight takes an update of this client."""

    job: Job
    round: Round


@dataclass(frozen=True)
class Duplicate:
    """The round holds an update of this client already, and keeps it."""

    receipt: UpdateReceipt


def admit(job: Job, round: Round, client: str) -> Admitted | Duplicate:
    """What becomes of an update of this client for a round of this job, in flight or closed.

    Raises:
        NotParticipant, RoundClosed: as `check_open`.
    """
    participant = round.participants.get(client)
    if participant is not None and participant.receipt is not None:
        return Duplicate(participant.receipt)
    check_open(round, client)
    return Admitted(job, round)


def check_open(round: Round, client: str) -> Participant:
    """The client's part in a round that takes something more from it; changes nothing.

    Raises:
        NotParticipant: the client was not selected.
        RoundClosed: the round waits for no reports, or the client gave up.
    """
    participant = participant_of(round, client)
    if not round.phase.takes_reports:
        raise RoundClosed(f"round {round.number} is closed ({round.phase}: {round.reason}); ask for the next task")
    if participant.failure is not None:
        raise RoundClosed(
            f"round {round.number} is closed to client {client!r}: it gave up ({participant.failure}); ask for the "
            "next task"
        )
    return participant


def holds(round: Round, event: ClientEvent) -> bool:
    """Whether the round has heard this very thing before, from a client whose answer may have been lost on the way.

    Raises:
        NotParticipant: the client was not selected.
    """
    participant = participant_of(round, event.client)
    match event:
        case Reported():
            return participant.receipt is not None
        case Evaluated():
            return participant.evaluation is not None
        case ClientFailed():
            return participant.failure is not None
        case _:
            return False


def check_late(round: Round, event: ClientEvent) -> None:
    """Returns when a round that takes nothing more holds already what the client says.

    Raises:
        NotParticipant, RoundClosed: as `check_open`.
    """
    if not holds(round, event):
        check_open(round, event.client)


def participant_of(round: Round, client: str) -> Participant:
    try:
        return round.participants[client]
    except KeyError:
        raise NotParticipant(
            f"client {client!r} was not selected into round {round.number}; ask for the next task"
        ) from None
