"""What a round stores about its events, and the exact times at which its waits end."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.state import round as rounds
from coordinator.state.errors import IllegalTransition
from coordinator.state.round_state import (
    Abandon,
    Aggregated,
    Candidates,
    ClientFailed,
    Evaluated,
    Phase,
    Reported,
    Round,
    TaskTaken,
    Tick,
    UpdateLost,
)
from fedgalore.alignment import Alignment
from tests.builders import a_policy, a_receipt, a_result, a_version

NAMES = ("a", "b", "c", "d")
POLICY = a_policy()  # four clients are chosen, three are enough, two are needed


def after(state: Round, *events: tuple[float, Any]) -> Round:
    """The round after events at these times; the reason of a changed round is the step's reason."""
    for now, event in events:
        step = rounds.advance(state, event, now, POLICY)
        assert step.round is state or step.round.reason == step.reason
        state = step.round
    return state


def opened(kind: Any = "train", now: float = 100.0) -> Round:
    return rounds.open_round(1, kind, 0, True, now, POLICY)


def chosen(kind: Any = "train") -> Round:
    return after(opened(kind), (101.0, Candidates(NAMES)))


def reporting() -> Round:
    return after(chosen(), *((102.0, TaskTaken(name)) for name in NAMES))


def aggregating() -> Round:
    return after(reporting(), *((103.0, Reported(name, a_receipt(name))) for name in "abc"))


def test_each_phase_has_the_time_at_which_it_began() -> None:
    done = after(aggregating(), (104.0, Aggregated(a_version(1), {}, {})))
    assert done.phase_at == {
        Phase.SELECTION: 100.0,
        Phase.CONFIGURATION: 101.0,
        Phase.REPORTING: 102.0,
        Phase.AGGREGATION: 103.0,
        Phase.COMMITTED: 104.0,
    }
    assert after(chosen(), (105.0, Abandon("enough"))).phase_at[Phase.ABANDONED] == 105.0
    failed = after(chosen(), *((106.0, ClientFailed(name, "broke")) for name in "abc"), (106.0, Candidates(NAMES)))
    assert (failed.phase, failed.phase_at[Phase.ABANDONED]) == (Phase.ABANDONED, 106.0)
    late = after(chosen(), (161.0, Tick()))
    assert (late.phase, late.phase_at[Phase.ABANDONED]) == (Phase.ABANDONED, 161.0)


def test_an_evaluation_ends_when_the_last_client_has_spoken_and_says_so() -> None:
    state = after(chosen("evaluate"), *((103.0 + i, Evaluated(name, a_result())) for i, name in enumerate(NAMES)))
    assert (state.phase, state.phase_at[Phase.COMMITTED]) == (Phase.COMMITTED, 106.0)
    assert state.reason == "version 0 evaluated by 4 clients"


def test_an_evaluation_waits_for_clients_from_its_opening_on() -> None:
    waiting = after(opened("evaluate"), (159.9, Tick()))
    assert waiting.phase is Phase.SELECTION
    ended = after(waiting, (160.0, Tick()))
    assert (ended.phase, ended.phase_at[Phase.ABANDONED]) == (Phase.ABANDONED, 160.0)


def test_an_open_round_says_where_it_stands_and_a_closed_round_how_it_ended() -> None:
    assert chosen().reason == "waiting: 0 of 4 tasks taken, 60 s left"
    reporting = after(chosen(), (121.0, Reported("a", a_receipt("a"))))
    assert reporting.reason == "waiting: 1 of 3 reports, 40 s left"
    assert aggregating().reason == "aggregating 3 updates"
    assert after(aggregating(), (104.0, Abandon("the disk is full"))).reason == "the disk is full"


def test_the_first_time_that_a_task_is_taken_counts() -> None:
    taken = after(chosen(), (102.0, TaskTaken("a")))
    assert rounds.advance(taken, TaskTaken("a"), 103.0, POLICY).round is taken
    both = after(taken, (104.0, Evaluated("a", a_result())), (105.0, Reported("a", a_receipt("a"))))
    assert both.participants["a"].taken_at == 102.0


def test_who_speaks_without_having_asked_took_its_task_then() -> None:
    state = after(chosen(), (104.0, Evaluated("a", a_result())), (105.0, Reported("b", a_receipt("b"))))
    assert [state.participants[name].taken_at for name in "abc"] == [104.0, 105.0, None]


def test_the_first_evaluation_stands_while_the_round_lasts_and_after_it() -> None:
    state = after(reporting(), (103.0, Evaluated("a", a_result())))
    again = Evaluated("a", a_result())
    assert rounds.advance(state, again, 104.0, POLICY).round is state
    over = after(state, (105.0, Abandon("enough")))
    assert rounds.advance(over, again, 106.0, POLICY).round is over


def test_a_failure_that_is_repeated_after_the_end_is_no_error() -> None:
    over = after(reporting(), (103.0, ClientFailed("a", "no memory")), (104.0, Abandon("enough")))
    assert rounds.advance(over, ClientFailed("a", "no memory"), 105.0, POLICY).round is over


def test_a_commit_keeps_what_the_aggregation_measured() -> None:
    shared = {"layer.0": Alignment(2.0, {"a": 0.5, "b": 0.25})}
    done = after(aggregating(), (104.0, Aggregated(a_version(1), {"qr_s": 0.5}, {"joint_rank": 2.0}, {}, shared)))
    assert (done.result, done.timings, done.statistics) == (a_version(1), {"qr_s": 0.5}, {"joint_rank": 2.0})
    assert done.alignment == shared


def test_a_commit_names_all_that_it_left_out() -> None:
    left_out = {"c": "far too long", "a": "far too long"}
    done = after(aggregating(), (104.0, Aggregated(a_version(1), {}, {}, left_out)))
    assert done.reason == "version 1 from 1 updates; left out: a, c"


def test_a_lost_update_is_a_task_that_nobody_has_taken() -> None:
    lost = UpdateLost("a", a_receipt("a").blob, "damaged")
    state = after(aggregating(), (110.0, lost))
    assert (state.participants["a"].taken_at, state.participants["b"].taken_at) == (None, 102.0)
    assert state.phase_at == {Phase.SELECTION: 100.0, Phase.CONFIGURATION: 101.0, Phase.REPORTING: 102.0}
    assert state.deadline_at == 110.0 + POLICY.deadline_s


def test_an_event_without_a_place_is_named_with_the_phase() -> None:
    with pytest.raises(IllegalTransition, match="round 1 is in SELECTION: Aggregated has no place there"):
        rounds.advance(opened(), Aggregated(a_version(1), {}, {}), 101.0, POLICY)
