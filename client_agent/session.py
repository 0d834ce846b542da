"""What an agent does next: its states, the events that move it, and the table of both. Pure, without I/O.

    REGISTERING -> IDLE -> PREPARING -> EVALUATING -> TRAINING -> UPLOADING -> IDLE

The agent performs its state (registers, polls, fetches, ...) and feeds what came of it to `advance`. A task skips
EVALUATING or TRAINING when it does not ask for it, and everything up to UPLOADING when its update lies ready on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

STOPPED_ON_REQUEST = 0
REFUSED_BY_COORDINATOR = 3


class SessionState(StrEnum):
    REGISTERING = "registering"
    IDLE = "idle"
    PREPARING = "preparing"
    EVALUATING = "evaluating"
    TRAINING = "training"
    UPLOADING = "uploading"
    FAILING = "failing"  # tells the coordinator that this site cannot do the task
    STOPPED = "stopped"


@dataclass(frozen=True)
class Work:
    """A task as far as the session cares."""

    job_id: str
    round: int
    trains: bool
    evaluates: bool
    update_ready: bool = False  # trained before a restart, not yet accepted


@dataclass(frozen=True)
class Registered: ...


@dataclass(frozen=True)
class Refused:
    """The coordinator will not work with this agent at all, such as one of another protocol version."""

    reason: str


@dataclass(frozen=True)
class NoTask: ...


@dataclass(frozen=True)
class Offered:
    work: Work


@dataclass(frozen=True)
class Done:
    """The state's own job succeeded."""


@dataclass(frozen=True)
class Failed:
    """This site cannot do the task."""

    reason: str


@dataclass(frozen=True)
class Dropped:
    """The task is over for this agent: its round closed, or the coordinator stayed away too long."""

    reason: str


@dataclass(frozen=True)
class Forgotten:
    """The coordinator does not know this agent (any more)."""

    reason: str


@dataclass(frozen=True)
class Stop:
    """The operator wants the process to end."""


SessionEvent = Registered | Refused | NoTask | Offered | Done | Failed | Dropped | Forgotten | Stop


@dataclass(frozen=True)
class Session:
    """Where an agent stands. `work` is set in the states of a task, `exit_code` once STOPPED."""

    state: SessionState = SessionState.REGISTERING
    reason: str = "starting"
    work: Work | None = None
    exit_code: int | None = None


class IllegalEvent(Exception):
    """The event cannot happen in this state; nothing changed."""


def advance(session: Session, event: SessionEvent) -> Session:
    """The session after `event`, with the reason for people.

    Raises:
        IllegalEvent: the table has no entry for this state and event.
    """
    if isinstance(event, Stop) and session.state is not SessionState.STOPPED:
        return Session(SessionState.STOPPED, "asked to stop", exit_code=STOPPED_ON_REQUEST)
    handler = _TABLE.get((session.state, type(event)))
    if handler is None:
        raise IllegalEvent(f"{type(event).__name__} cannot happen while {session.state}")
    return handler(session, event)


def _registered(session: Session, event: SessionEvent) -> Session:
    return Session(SessionState.IDLE, "registered")


def _refused(session: Session, event: SessionEvent) -> Session:
    assert isinstance(event, Refused)
    return Session(SessionState.STOPPED, event.reason, exit_code=REFUSED_BY_COORDINATOR)


def _no_task(session: Session, event: SessionEvent) -> Session:
    return Session(SessionState.IDLE, "no work yet")


def _offered(session: Session, event: SessionEvent) -> Session:
    assert isinstance(event, Offered)
    work = event.work
    if work.trains and work.update_ready:
        return Session(SessionState.UPLOADING, "the update of this round is on disk already", work)
    return Session(SessionState.PREPARING, f"took round {work.round} of job {work.job_id}", work)


def _done(session: Session, event: SessionEvent) -> Session:
    work = session.work
    assert work is not None
    if session.state is SessionState.PREPARING and work.evaluates:
        return Session(SessionState.EVALUATING, "holds the round's model", work)
    if session.state in (SessionState.PREPARING, SessionState.EVALUATING) and work.trains:
        return Session(SessionState.TRAINING, "training on local data", work)
    if session.state is SessionState.TRAINING:
        return Session(SessionState.UPLOADING, "trained", work)
    outcome = "failure reported" if session.state is SessionState.FAILING else "done"
    return Session(SessionState.IDLE, f"round {work.round} of job {work.job_id}: {outcome}")


def _failed(session: Session, event: SessionEvent) -> Session:
    assert isinstance(event, Failed)
    return Session(SessionState.FAILING, event.reason, session.work)


def _dropped(session: Session, event: SessionEvent) -> Session:
    assert isinstance(event, Dropped)
    assert session.work is not None
    return Session(
        SessionState.IDLE, f"round {session.work.round} of job {session.work.job_id} dropped: {event.reason}"
    )


def _forgotten(session: Session, event: SessionEvent) -> Session:
    assert isinstance(event, Forgotten)
    return Session(SessionState.REGISTERING, event.reason)


_WORKING = (SessionState.PREPARING, SessionState.EVALUATING, SessionState.TRAINING, SessionState.UPLOADING)

_TABLE: dict[tuple[SessionState, type[SessionEvent]], Callable[[Session, SessionEvent], Session]] = {
    (SessionState.REGISTERING, Registered): _registered,
    (SessionState.REGISTERING, Refused): _refused,
    (SessionState.IDLE, Refused): _refused,
    (SessionState.IDLE, NoTask): _no_task,
    (SessionState.IDLE, Offered): _offered,
    (SessionState.IDLE, Forgotten): _forgotten,
    **{(state, Failed): _failed for state in _WORKING},
    **{(state, Done): _done for state in (*_WORKING, SessionState.FAILING)},
    **{(state, Dropped): _dropped for state in (*_WORKING, SessionState.FAILING)},
    **{(state, Forgotten): _forgotten for state in (*_WORKING, SessionState.FAILING)},
}
