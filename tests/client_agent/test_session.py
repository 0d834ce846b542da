"""The agent's states: each way through a task, every illegal event."""

import itertools

import pytest

from client_agent.session import (
    TRANSITIONS,
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
    SessionState,
    Stop,
    Work,
    advance,
)
from fedgalore.process.transitions import UndeclaredTransition, to

TRAIN = Work("job", 3, trains=True, evaluates=False)
CHECK = Work("job", 0, trains=False, evaluates=False, checks=True)
EVENTS = [
    Registered(),
    Refused("no"),
    NoTask(),
    Offered(TRAIN),
    Done(),
    Failed("f"),
    Dropped("d"),
    Forgotten("u"),
    Stop(),
]
LEGAL = {
    SessionState.REGISTERING: {Registered, Refused, Stop},
    SessionState.IDLE: {NoTask, Offered, Forgotten, Refused, Stop},
    SessionState.CHECKING: {Done, Dropped, Forgotten, Refused, Stop},
    SessionState.PREPARING: {Done, Failed, Dropped, Forgotten, Refused, Stop},
    SessionState.EVALUATING: {Done, Failed, Dropped, Forgotten, Refused, Stop},
    SessionState.TRAINING: {Done, Failed, Dropped, Forgotten, Refused, Stop},
    SessionState.UPLOADING: {Done, Failed, Dropped, Forgotten, Refused, Stop},
    SessionState.FAILING: {Done, Dropped, Forgotten, Refused, Stop},
    SessionState.STOPPED: set(),
}


def states(work: Work, *events) -> list[SessionState]:
    """The states from the offer of `work` on."""
    session = advance(Session(SessionState.IDLE), Offered(work))
    seen = [session.state]
    for event in events:
        session = advance(session, event)
        seen.append(session.state)
    return seen


@pytest.mark.parametrize(
    ("work", "path"),
    [
        (TRAIN, [SessionState.PREPARING, SessionState.TRAINING, SessionState.UPLOADING]),
        (
            Work("j", 1, trains=True, evaluates=True),
            [SessionState.PREPARING, SessionState.EVALUATING, SessionState.TRAINING, SessionState.UPLOADING],
        ),
        (Work("j", 1, trains=False, evaluates=True), [SessionState.PREPARING, SessionState.EVALUATING]),
        (Work("j", 1, trains=True, evaluates=True, update_ready=True), [SessionState.UPLOADING]),
        (CHECK, [SessionState.CHECKING]),
    ],
)
def test_a_task_takes_the_states_it_asks_for_and_ends_idle(work, path):
    assert states(work, *[Done()] * len(path)) == [*path, SessionState.IDLE]


def test_registers_first():
    session = Session()
    assert session.state is SessionState.REGISTERING
    assert advance(session, Registered()).state is SessionState.IDLE


def test_a_failure_is_reported_with_its_reason_before_the_next_task():
    session = advance(advance(Session(SessionState.IDLE), Offered(TRAIN)), Failed("label 9 is outside"))
    assert (session.state, session.reason, session.work) == (SessionState.FAILING, "label 9 is outside", TRAIN)
    session = advance(session, Done())
    assert (session.state, session.work) == (SessionState.IDLE, None)
    assert "round 3 of job job: failure reported" in session.reason


def test_a_check_that_is_dropped_says_so():
    session = advance(advance(Session(SessionState.IDLE), Offered(CHECK)), Dropped("no answer"))
    assert session.reason == "the check for job job dropped: no answer"


def test_a_closed_round_is_dropped_and_an_unknown_agent_registers_again():
    assert states(TRAIN, Done(), Dropped("round is closed"))[-1] is SessionState.IDLE
    assert states(TRAIN, Done(), Done(), Forgotten("register first"))[-1] is SessionState.REGISTERING


def test_exit_codes():
    assert advance(Session(), Refused("speak version 2")).exit_code == 3
    assert advance(advance(Session(SessionState.IDLE), Offered(TRAIN)), Stop()).exit_code == 0


@pytest.mark.parametrize(("state", "event"), list(itertools.product(SessionState, EVENTS)))
def test_the_table_allows_exactly_these_events(state, event):
    work = TRAIN if state not in (SessionState.REGISTERING, SessionState.IDLE, SessionState.STOPPED) else None
    session = Session(state, work=work)
    if type(event) in LEGAL[state]:
        after = advance(session, event)
        assert after.reason
        assert (after.exit_code is not None) == (after.state is SessionState.STOPPED)
    else:
        with pytest.raises(IllegalEvent, match=f"cannot happen while {state}"):
            advance(session, event)


def test_every_state_that_a_row_names_is_reached():
    reached = set()
    works = [CHECK]
    for trains, evaluates, ready in itertools.product((True, False), repeat=3):
        works.append(Work("job", 1, trains, evaluates or not trains, update_ready=ready))
    for work, state in itertools.product(works, SessionState):
        for event in (*EVENTS, Offered(work)):
            if type(event) in LEGAL[state]:
                reached.add((state, type(event), advance(Session(state, work=work), event).state))
    assert reached == {(*key, state) for key, row in TRANSITIONS.items() for state in row.leads_to}


def test_an_outcome_that_its_row_does_not_name_is_a_fault_of_the_program(monkeypatch):
    row = TRANSITIONS[SessionState.IDLE, NoTask]
    monkeypatch.setitem(TRANSITIONS, (SessionState.IDLE, NoTask), to(row.handler, SessionState.TRAINING))
    with pytest.raises(UndeclaredTransition, match="NoTask led from IDLE to IDLE, but its row leads to TRAINING"):
        advance(Session(SessionState.IDLE), NoTask())


def test_a_state_without_a_task_has_no_work_in_hand():
    with pytest.raises(IllegalEvent, match="no task is in hand while idle"):
        _ = Session(SessionState.IDLE).work_in_hand
