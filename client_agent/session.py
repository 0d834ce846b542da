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


class State(StrEnum):
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


Event = Registered | Refused | NoTask | Offered | Done | Failed | Dropped | Forgotten | Stop


@dataclass(frozen=True)
class Session:
    """Where an agent stands. `work` is set in the states of a task, `exit_code` once STOPPED."""

    state: State = State.REGISTERING
    reason: str = "starting"
    work: Work | None = None
    exit_code: int | None = None


class IllegalEvent(Exception):
    """The event cannot happen in this state; nothing changed."""


def advance(session: Session, event: Event) -> Session:
    """The session after `event`, with the reason for people.

    Raises:
        IllegalEvent: the table has no entry for this state and event.
    """
    if isinstance(event, Stop) and session.state is not State.STOPPED:
        return Session(State.STOPPED, "asked to stop", exit_code=STOPPED_ON_REQUEST)
    handler = _TABLE.get((session.state, type(event)))
    if handler is None:
        raise IllegalEvent(f"{type(event).__name__} cannot happen while {session.state}")
    return handler(session, event)


def _registered(session: Session, event: Event) -> Session:
    return Session(State.IDLE, "registered")


def _refused(session: Session, event: Event) -> Session:
    assert isinstance(event, Refused)
    return Session(State.STOPPED, event.reason, exit_code=REFUSED_BY_COORDINATOR)


def _no_task(session: Session, event: Event) -> Session:
    return Session(State.IDLE, "no work yet")


def _offered(session: Session, event: Event) -> Session:
    assert isinstance(event, Offered)
    work = event.work
    if work.trains and work.update_ready:
        return Session(State.UPLOADING, "the update of this round is on disk already", work)
    return Session(State.PREPARING, f"took round {work.round} of job {work.job_id}", work)


def _done(session: Session, event: Event) -> Session:
    work = session.work
    assert work is not None
    if session.state is State.PREPARING and work.evaluates:
        return Session(State.EVALUATING, "holds the round's model", work)
    if session.state in (State.PREPARING, State.EVALUATING) and work.trains:
        return Session(State.TRAINING, "training on local data", work)
    if session.state is State.TRAINING:
        return Session(State.UPLOADING, "trained", work)
    outcome = "failure reported" if session.state is State.FAILING else "done"
    return Session(State.IDLE, f"round {work.round} of job {work.job_id}: {outcome}")


def _failed(session: Session, event: Event) -> Session:
    assert isinstance(event, Failed)
    return Session(State.FAILING, event.reason, session.work)


def _dropped(session: Session, event: Event) -> Session:
    assert isinstance(event, Dropped)
    assert session.work is not None
    return Session(State.IDLE, f"round {session.work.round} of job {session.work.job_id} dropped: {event.reason}")


def _forgotten(session: Session, event: Event) -> Session:
    assert isinstance(event, Forgotten)
    return Session(State.REGISTERING, event.reason)


_WORKING = (State.PREPARING, State.EVALUATING, State.TRAINING, State.UPLOADING)

_TABLE: dict[tuple[State, type[Event]], Callable[[Session, Event], Session]] = {
    (State.REGISTERING, Registered): _registered,
    (State.REGISTERING, Refused): _refused,
    (State.IDLE, Refused): _refused,
    (State.IDLE, NoTask): _no_task,
    (State.IDLE, Offered): _offered,
    (State.IDLE, Forgotten): _forgotten,
    **{(state, Failed): _failed for state in _WORKING},
    **{(state, Done): _done for state in (*_WORKING, State.FAILING)},
    **{(state, Dropped): _dropped for state in (*_WORKING, State.FAILING)},
    **{(state, Forgotten): _forgotten for state in (*_WORKING, State.FAILING)},
}
