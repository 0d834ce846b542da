"""What an agent tells Prometheus of itself."""

from __future__ import annotations

import pytest

from client_agent import session as on
from client_agent.exported import Exported
from client_agent.session import Session, SessionEvent, SessionState, Work, advance

TRAINS, CHECKS = Work("job-1", 1, trains=True, evaluates=False), Work("job-1", 0, False, False, checks=True)


def played(*events: SessionEvent) -> Exported:
    told, session = Exported(lambda: False), Session()
    for event in events:
        after = advance(session, event)
        told.moved(session, event, after)
        session = after
    return told


@pytest.mark.parametrize(
    ("events", "outcome"),
    [
        ([on.Offered(TRAINS), on.Done(), on.Done(), on.Done()], "done"),
        ([on.Offered(TRAINS), on.Done(), on.Failed("no memory"), on.Done()], "failed"),
        ([on.Offered(TRAINS), on.Done(), on.Dropped("round 1 is closed")], "dropped"),
        ([on.Offered(TRAINS), on.Done(), on.Forgotten("unknown")], "dropped"),
        ([on.Offered(TRAINS), on.Done(), on.Done()], None),
        ([on.Offered(CHECKS), on.Done()], None),
    ],
)
def test_a_task_is_counted_once_by_its_end(events: list[SessionEvent], outcome: str | None) -> None:
    told = played(on.Registered(), *events).registry
    for each in ("done", "failed", "dropped"):
        assert told.get_sample_value("fedgalore_agent_tasks_total", {"outcome": each}) == float(each == outcome)


def test_it_stands_in_one_state_and_its_time_goes_to_that() -> None:
    told = played(on.Registered(), on.Offered(TRAINS)).registry
    stands = {s: told.get_sample_value("fedgalore_agent_state", {"state": s}) for s in SessionState}
    assert [state for state, value in stands.items() if value] == [SessionState.PREPARING]
    assert told.get_sample_value("fedgalore_agent_state_seconds_total", {"state": "idle"}) is not None
    assert told.get_sample_value("fedgalore_agent_state_seconds_total", {"state": "training"}) is None
    assert told.get_sample_value("fedgalore_agent_coordinator_up") == 0.0
