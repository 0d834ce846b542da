"""What an agent does next: its states, the events that move it, and the table of both. Pure, without I/O.

    REGISTERING -> IDLE -> PREPARING -> EVALUATING -> TRAINING -> UPLOADING -> IDLE
                   IDLE -> CHECKING -> IDLE

The agent performs its state (registers, polls, fetches, ...) and feeds what came of it to `advance`. A task skips
EVALUATING or TRAINING when it does not ask for it, and everything up to UPLOADING when its update lies ready on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fedgalore.process.transitions import Transition, to

STOPPED_ON_REQUEST = 0
REFUSED_BY_COORDINATOR = 3


class SessionState(StrEnum):
    REGISTERING = "registering"
    IDLE = "idle"
    CHECKING = "checking"  # whether this site's data fit a job
    PREPARING = "preparing"
    EVALUATING = "evaluating"
    TRAINING = "training"
    UPLOADING = "uploading"
    FAILING = "failing"  # reports that this site cannot do the task
    STOPPED = "stopped"


@dataclass(frozen=True)
class Work:
    """A task as far as the session cares. It trains, or evaluates, or both; or it only checks the site's data."""

    job_id: str
    round: int
    trains: bool
    evaluates: bool
    update_ready: bool = False  # trained before a restart, not yet accepted
    checks: bool = False


@dataclass(frozen=True)
class Registered: ...


@dataclass(frozen=True)
class Refused:
    """The coordinator will not work with this agent at all, such as one of another protocol version or one whose name
    another agent has."""

    reason: str


@dataclass(frozen=True)
class NoTask: ...


@dataclass(frozen=True)
class Offered:
    work: Work


@dataclass(frozen=True)
class Done:
    """What the state is for succeeded."""


@dataclass(frozen=True)
class Failed:
    """This site cannot do the task. `code`: of the reason, for machines; empty where it has none."""

    reason: str
    code: str = ""


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


class IllegalEvent(Exception):
    """The event cannot happen in this state; nothing changed."""


@dataclass(frozen=True)
class Session:
    """Where an agent stands. `work` is set in the states of a task, `code` in FAILING, `exit_code` once STOPPED."""

    state: SessionState = SessionState.REGISTERING
    reason: str = "starting"
    work: Work | None = None
    exit_code: int | None = None
    code: str = ""

    @property
    def work_in_hand(self) -> Work:
        """The work of a state that has some.

        Raises:
            IllegalEvent: this state has none.
        """
        if self.work is None:
            raise IllegalEvent(f"no task is in hand while {self.state}")
        return self.work


def advance(session: Session, event: SessionEvent) -> Session:
    """The session after `event`, with the reason for people.

    Raises:
        IllegalEvent: the table has no row for this state and event.
    """
    row = TRANSITIONS.get((session.state, type(event)))
    if row is None:
        raise IllegalEvent(f"{type(event).__name__} cannot happen while {session.state}")
    after = row.handler(session, event)
    row.check(session.state, event, after.state)
    return after


def _registered(session: Session, event: Registered) -> Session:
    return Session(SessionState.IDLE, "registered")


def _refused(session: Session, event: Refused) -> Session:
    return Session(SessionState.STOPPED, event.reason, exit_code=REFUSED_BY_COORDINATOR)


def _stopped(session: Session, event: Stop) -> Session:
    return Session(SessionState.STOPPED, "asked to stop", exit_code=STOPPED_ON_REQUEST)


def _no_task(session: Session, event: NoTask) -> Session:
    return Session(SessionState.IDLE, "no work yet")


def _offered(session: Session, event: Offered) -> Session:
    work = event.work
    if work.checks:
        return Session(SessionState.CHECKING, f"looks whether its data fit job {work.job_id}", work)
    if work.trains and work.update_ready:
        return Session(SessionState.UPLOADING, "the update of this round is on disk already", work)
    return Session(SessionState.PREPARING, f"took round {work.round} of job {work.job_id}", work)


def _checked(session: Session, event: Done) -> Session:
    return Session(SessionState.IDLE, f"job {session.work_in_hand.job_id} knows whether this site's data fit")


def _prepared(session: Session, event: Done) -> Session:
    work = session.work_in_hand
    return Session(SessionState.EVALUATING, "holds the round's model", work) if work.evaluates else _train(work)


def _evaluated(session: Session, event: Done) -> Session:
    return _train(session.work_in_hand) if session.work_in_hand.trains else _finished(session, "done")


def _trained(session: Session, event: Done) -> Session:
    return Session(SessionState.UPLOADING, "trained", session.work_in_hand)


def _delivered(session: Session, event: Done) -> Session:
    return _finished(session, "done")


def _failure_reported(session: Session, event: Done) -> Session:
    return _finished(session, "failure reported")


def _failed(session: Session, event: Failed) -> Session:
    return Session(SessionState.FAILING, event.reason, session.work, code=event.code)


def _dropped(session: Session, event: Dropped) -> Session:
    work = session.work_in_hand
    what = f"the check for job {work.job_id}" if work.checks else f"round {work.round} of job {work.job_id}"
    return Session(SessionState.IDLE, f"{what} dropped: {event.reason}")


def _forgotten(session: Session, event: Forgotten) -> Session:
    return Session(SessionState.REGISTERING, event.reason)


def _train(work: Work) -> Session:
    return Session(SessionState.TRAINING, "training on local data", work)


def _finished(session: Session, outcome: str) -> Session:
    work = session.work_in_hand
    return Session(SessionState.IDLE, f"round {work.round} of job {work.job_id}: {outcome}")


_Row = Transition[Callable[[Session, Any], Session], SessionState]
_REGISTERING, _IDLE, _CHECKING, _PREPARING, _EVALUATING, _TRAINING, _UPLOADING, _FAILING, _STOPPED = SessionState
_STOP: dict[type, _Row] = {Stop: to(_stopped, _STOPPED)}
_TASK: dict[type, _Row] = {
    Dropped: to(_dropped, _IDLE),
    Forgotten: to(_forgotten, _REGISTERING),
    Refused: to(_refused, _STOPPED),
    **_STOP,
}
_WORK: dict[type, _Row] = {Failed: to(_failed, _FAILING), **_TASK}
_ROWS: dict[SessionState, dict[type, _Row]] = {
    _REGISTERING: {Registered: to(_registered, _IDLE), Refused: to(_refused, _STOPPED), **_STOP},
    _IDLE: {
        NoTask: to(_no_task, _IDLE),
        Offered: to(_offered, _CHECKING, _PREPARING, _UPLOADING),
        Forgotten: to(_forgotten, _REGISTERING),
        Refused: to(_refused, _STOPPED),
        **_STOP,
    },
    _CHECKING: {Done: to(_checked, _IDLE), **_TASK},
    _PREPARING: {Done: to(_prepared, _EVALUATING, _TRAINING), **_WORK},
    _EVALUATING: {Done: to(_evaluated, _TRAINING, _IDLE), **_WORK},
    _TRAINING: {Done: to(_trained, _UPLOADING), **_WORK},
    _UPLOADING: {Done: to(_delivered, _IDLE), **_WORK},
    _FAILING: {Done: to(_failure_reported, _IDLE), **_TASK},
    _STOPPED: {},
}
TRANSITIONS: dict[tuple[SessionState, type], _Row] = {
    (state, event): row for state, rows in _ROWS.items() for event, row in rows.items()
}
