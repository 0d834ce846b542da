"""Whether a round still accepts work of a client: pure functions that change nothing."""

from __future__ import annotations

import pytest

from coordinator.state.admission import Admitted, Duplicate, admit, check_late, check_open
from coordinator.state.errors import NotParticipant, RoundClosed
from coordinator.state.round_state import ClientFailed, Evaluated, Phase, Reported, TaskTaken
from tests.builders import a_job, a_receipt, a_result
from tests.coordinator.state.test_round import in_phase, play, reports

OPEN = (Phase.CONFIGURATION, Phase.REPORTING)


@pytest.mark.parametrize("phase", list(Phase))
def test_only_a_round_that_waits_for_reports_takes_more_of_a_client(phase: Phase) -> None:
    before = in_phase(phase)
    with pytest.raises(NotParticipant, match="'stranger' was not selected into round 1"):
        check_open(before, "stranger")
    if phase in OPEN:
        assert check_open(before, "d") == before.participants["d"]
        assert admit(a_job(), before, "d") == Admitted(a_job(), before)
    else:
        refusal = NotParticipant if phase is Phase.SELECTION else RoundClosed
        for ask in (lambda: check_open(before, "d"), lambda: admit(a_job(), before, "d")):
            with pytest.raises(refusal):
                ask()
    assert before == in_phase(phase)


@pytest.mark.parametrize("phase", [Phase.REPORTING, Phase.AGGREGATION, Phase.COMMITTED])
def test_an_update_that_the_round_holds_is_a_duplicate_then_and_ever(phase: Phase) -> None:
    state = play(in_phase(phase), *reports("a")) if phase is Phase.REPORTING else in_phase(phase)
    assert admit(a_job(), state, "a") == Duplicate(a_receipt("a"))


def test_who_gave_up_is_not_admitted_but_hears_why() -> None:
    state = play(in_phase(Phase.REPORTING), ClientFailed("b", "no memory"))
    with pytest.raises(RoundClosed, match=r"closed to client 'b': it gave up \(no memory\); ask for the next task"):
        admit(a_job(), state, "b")


def test_a_closed_round_knows_what_it_has_heard_before() -> None:
    state = play(in_phase(Phase.REPORTING), Evaluated("a", a_result()), ClientFailed("d", "no memory"))
    state = play(state, *reports("a", "b", "c"))
    assert state.phase is Phase.AGGREGATION
    for heard in (Reported("a", a_receipt("another")), Evaluated("a", a_result()), ClientFailed("d", "again")):
        check_late(state, heard)
    for late in (Reported("d", a_receipt()), Evaluated("b", a_result()), ClientFailed("a", "x"), TaskTaken("a")):
        with pytest.raises(RoundClosed, match="round 1 is closed"):
            check_late(state, late)
    with pytest.raises(NotParticipant):
        check_late(state, Reported("stranger", a_receipt()))
