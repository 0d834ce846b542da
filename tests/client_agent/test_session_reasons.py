"""What a session carries from state to state: its work, the words for people, the code that the process ends with."""

from __future__ import annotations

import pytest

from client_agent.session import (
    Done,
    Dropped,
    Failed,
    Forgotten,
    IllegalEvent,
    NoTask,
    Offered,
    Refused,
    Registered,
    Session,
    Stop,
    Work,
    advance,
)

BOTH = Work("job", 3, trains=True, evaluates=True)
LAST = Work("job", 3, trains=False, evaluates=True)


def after(*events: object) -> Session:
    session = Session()
    for event in events:
        session = advance(session, event)  # type: ignore[arg-type]
    return session


def test_without_work_it_stays_idle() -> None:
    idle = after(Registered(), NoTask())
    assert (idle.state, idle.work, idle.exit_code) == ("idle", None, None)
    assert after(Registered(), NoTask(), Offered(BOTH)).state == "preparing"


def test_a_task_keeps_its_work_until_it_is_done() -> None:
    session = after(Registered(), Offered(BOTH))
    for state in ("preparing", "evaluating", "training", "uploading"):
        assert (session.state, session.work) == (state, BOTH)
        session = advance(session, Done())
    assert (session.state, session.work) == ("idle", None)


def test_an_update_that_lies_ready_keeps_its_work_too() -> None:
    ready = Work("job", 3, trains=True, evaluates=False, update_ready=True)
    session = after(Registered(), Offered(ready))
    assert (session.state, session.work) == ("uploading", ready)


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ((Registered(),), "registered"),
        ((Registered(), NoTask()), "no work yet"),
        ((Registered(), Offered(BOTH)), "took round 3 of job job"),
        ((Registered(), Offered(BOTH), Done(), Done(), Done()), "trained"),
        ((Registered(), Offered(BOTH), Done(), Done(), Done(), Done()), "round 3 of job job: done"),
        ((Registered(), Offered(LAST), Done(), Done()), "round 3 of job job: done"),
        ((Registered(), Offered(BOTH), Failed("no memory")), "no memory"),
        ((Registered(), Offered(BOTH), Failed("no memory"), Done()), "round 3 of job job: failure reported"),
        ((Registered(), Offered(BOTH), Dropped("closed")), "round 3 of job job dropped: closed"),
        ((Registered(), Forgotten("register first")), "register first"),
        ((Refused("speak version 2"),), "speak version 2"),
        ((Registered(), Refused("speak version 2")), "speak version 2"),
        ((Registered(), Stop()), "asked to stop"),
    ],
)
def test_each_step_says_why(events: tuple[object, ...], reason: str) -> None:
    assert after(*events).reason == reason


def test_every_state_says_something() -> None:
    session = after(Registered(), Offered(BOTH))
    while session.state != "idle":
        assert session.reason
        session = advance(session, Done())
    assert after(Registered(), Offered(Work("job", 3, True, False, update_ready=True))).reason


def test_an_event_out_of_place_is_named_with_the_state() -> None:
    with pytest.raises(IllegalEvent, match="NoTask cannot happen while registering"):
        after(NoTask())
