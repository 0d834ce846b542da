"""The round's transition table: every (phase, event) pair, the paths through it, and the rules for every sequence."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.state import round as rounds
from coordinator.state.errors import DomainError, IllegalTransition, NotParticipant, RoundClosed
from coordinator.state.round_settling import explain
from coordinator.state.round_state import (
    Abandon,
    Aggregated,
    Candidates,
    ClientFailed,
    Effect,
    Evaluated,
    Participant,
    Phase,
    Reported,
    Round,
    RoundEvent,
    TaskTaken,
    Tick,
    UpdateLost,
)
from fedgalore.process.transitions import UndeclaredTransition, to
from fedgalore.selection import choose_cohort
from tests.builders import a_policy, a_receipt, a_result, a_version

NAMES = ("a", "b", "c", "d")
POLICY = a_policy()


def opened(kind: Any = "train", now: float = 0.0) -> Round:
    return rounds.open_round(1, kind, 0, True, now, POLICY)


def play(state: Round, *events: RoundEvent, now: float = 0.0) -> Round:
    for event in events:
        state = rounds.advance(state, event, now, POLICY).round
    return state


def reports(*clients: str) -> list[RoundEvent]:
    return [Reported(client, a_receipt(client)) for client in clients]


def in_phase(phase: Phase, kind: Any = "train") -> Round:
    start = opened(kind)
    chosen = play(start, Candidates(NAMES))
    reporting = play(chosen, *(TaskTaken(name) for name in NAMES))
    aggregating = play(reporting, *reports("a", "b", "c")) if kind == "train" else reporting
    return {
        Phase.SELECTION: start,
        Phase.CONFIGURATION: chosen,
        Phase.REPORTING: reporting,
        Phase.AGGREGATION: aggregating,
        Phase.COMMITTED: play(aggregating, Aggregated(a_version(1), {}, {})) if kind == "train" else reporting,
        Phase.ABANDONED: play(reporting, Abandon("enough")),
    }[phase]


EVENTS: dict[str, RoundEvent] = {
    "Candidates": Candidates(NAMES),
    "TaskTaken": TaskTaken("d"),
    "Reported": Reported("d", a_receipt("d")),
    "Evaluated": Evaluated("d", a_result()),
    "ClientFailed": ClientFailed("d", "no memory"),
    "Tick": Tick(),
    "Aggregated": Aggregated(a_version(1), {"qr": 0.1}, {"joint_rank": 2.0}),
    "UpdateLost": UpdateLost("a", a_receipt("a").blob, "damaged"),
    "Abandon": Abandon("by request"),
}
# The outcome of each event, a phase or an error. Client d, who has reported nothing yet, sends the events of clients.
CLOSED = dict.fromkeys(("TaskTaken", "Reported", "Evaluated", "ClientFailed"), RoundClosed)
OUTCOMES: dict[Phase, dict[str, Any]] = {
    Phase.SELECTION: {
        "Candidates": Phase.CONFIGURATION,
        "Tick": Phase.SELECTION,
        "Abandon": Phase.ABANDONED,
        **dict.fromkeys(CLOSED, NotParticipant),
    },
    Phase.CONFIGURATION: {
        "Candidates": Phase.CONFIGURATION,
        "TaskTaken": Phase.CONFIGURATION,
        "Reported": Phase.REPORTING,
        "Evaluated": Phase.CONFIGURATION,
        "ClientFailed": Phase.CONFIGURATION,
        "Tick": Phase.CONFIGURATION,
        "Abandon": Phase.ABANDONED,
    },
    Phase.REPORTING: {
        "Candidates": Phase.REPORTING,
        "TaskTaken": Phase.REPORTING,
        "Reported": Phase.REPORTING,
        "Evaluated": Phase.REPORTING,
        "ClientFailed": Phase.REPORTING,
        "Tick": Phase.REPORTING,
        "UpdateLost": Phase.REPORTING,
        "Abandon": Phase.ABANDONED,
    },
    Phase.AGGREGATION: {
        **CLOSED,
        "Tick": Phase.AGGREGATION,
        "Aggregated": Phase.COMMITTED,
        "UpdateLost": Phase.REPORTING,
        "Abandon": Phase.ABANDONED,
    },
    Phase.COMMITTED: CLOSED,
    Phase.ABANDONED: CLOSED,
}


@pytest.mark.parametrize(("phase", "name"), list(product(Phase, EVENTS)))
def test_every_pair_of_phase_and_event(phase: Phase, name: str) -> None:
    before = in_phase(phase)
    assert before.phase is phase
    expected = OUTCOMES[phase].get(name, IllegalTransition)
    if isinstance(expected, Phase):
        assert rounds.advance(before, EVENTS[name], 1.0, POLICY).round.phase is expected
    else:
        with pytest.raises(expected):
            rounds.advance(before, EVENTS[name], 1.0, POLICY)
    assert before == in_phase(phase)  # no event changes the earlier round


def test_the_table_holds_nothing_that_the_test_does_not_know() -> None:
    known = {(phase, name) for phase, row in OUTCOMES.items() for name in row}
    assert {(phase, event.__name__) for phase, event in rounds.TRANSITIONS} == known


def test_an_outcome_that_its_row_does_not_name_is_a_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    astray = to(lambda before, *_: replace(before, phase=Phase.COMMITTED), Phase.SELECTION)
    monkeypatch.setitem(rounds.TRANSITIONS, (Phase.SELECTION, Tick), astray)
    with pytest.raises(UndeclaredTransition, match="Tick led from SELECTION to COMMITTED, but its row leads to SELEC"):
        rounds.advance(opened(), Tick(), 1.0, POLICY)


@pytest.mark.slow
def test_every_phase_that_a_row_names_is_reached() -> None:
    """Random rounds of two or three clients reach them; `advance` itself refuses every other phase."""
    draw, reached = Random(0), set()
    for _ in range(3000):
        kind: Any = draw.choice(["train", "evaluate"])
        least = draw.choice([1, 2]) if kind == "train" else 1
        sizes = {"goal": draw.choice([2, 3]), "cohort_size": draw.choice([2, 3])}
        policy = a_policy(min_clients=least, deadline_s=20.0, **sizes)
        state, now = rounds.open_round(1, kind, 0, True, 0.0, policy), 0.0
        for _ in range(25):
            now += draw.choice([0, 0, 0, 0, 0, 3, 25])
            event = any_of(draw)
            with suppress(DomainError):
                after = rounds.advance(state, event, now, policy).round
                reached.add((state.phase, type(event), after.phase))
                state = after
    assert reached == {(*key, phase) for key, row in rounds.TRANSITIONS.items() for phase in row.leads_to}


def any_of(draw: Random) -> RoundEvent:
    client, text = draw.choice("abc"), draw.choice("xy")
    events: list[RoundEvent] = [
        Candidates(tuple(draw.sample("abcd", draw.randint(0, 3)))),
        TaskTaken(client),
        Reported(client, a_receipt(text)),
        Evaluated(client, a_result()),
        ClientFailed(client, "no memory"),
        UpdateLost(client, a_receipt(text).blob, "damaged"),
        Tick(),
        Aggregated(a_version(1), {}, {}),
    ]
    return draw.choice(events) if draw.random() < 0.98 else Abandon("enough")


def test_selection_waits_for_the_cohort_then_for_the_minimum() -> None:
    start = opened(now=100.0)
    waiting = rounds.advance(start, Candidates(("a", "b", "c")), 104.9, POLICY)
    assert waiting.round.phase is Phase.SELECTION
    assert waiting.reason == "waiting: 3 of 4 clients with the data; 2 do after 5 s"
    chosen = rounds.advance(waiting.round, Candidates(("a", "b", "c")), 105.0, POLICY)
    assert chosen.round.phase is Phase.CONFIGURATION
    assert chosen.round.deadline_at == 165.0
    assert chosen.effects == (Effect.WAKE_AGENTS,)
    alone = rounds.advance(start, Candidates(("a",)), 1000.0, POLICY)
    assert alone.round.phase is Phase.SELECTION  # below min_clients, without a time limit
    assert rounds.advance(alone.round, Candidates(("a",)), 2000.0, POLICY).round is alone.round  # nothing to save


def test_selection_tells_of_clients_that_work_for_other_jobs() -> None:
    step = rounds.advance(opened(), Candidates(("a",), busy=2), 1.0, POLICY)
    assert step.reason == ("waiting: 1 of 4 clients with the data, 2 more are busy with other jobs; 2 do after 5 s")


def test_the_first_cohort_waits_for_sites_that_still_check_their_data() -> None:
    event = Candidates((*NAMES, "e"), checking=1)
    waiting = rounds.advance(opened(), event, 4.9, POLICY)
    assert waiting.round.phase is Phase.SELECTION
    assert waiting.reason == "waiting: 5 of 4 clients with the data, 1 more check their data; 2 do after 5 s"
    assert rounds.advance(waiting.round, event, 5.0, POLICY).round.phase is Phase.CONFIGURATION
    later = replace(opened(), number=2)
    assert (
        rounds.advance(later, event, 0.1, POLICY).round.phase is Phase.CONFIGURATION
    )  # a site that joins holds up none


def test_the_cohort_is_the_same_as_in_the_simulation() -> None:
    names = tuple(f"client-{i}" for i in range(20))
    chosen = play(opened(), Candidates(names))
    assert tuple(chosen.participants) == choose_cohort(names, POLICY.cohort_size, POLICY.seed, 1)


def test_the_goal_closes_the_round_and_the_rest_is_late() -> None:
    state = in_phase(Phase.REPORTING)
    state = play(state, *reports("a", "b"))
    step = rounds.advance(state, Reported("c", a_receipt("c")), 19.0, POLICY)
    assert (step.round.phase, step.effects) == (Phase.AGGREGATION, (Effect.WAKE_AGGREGATOR,))
    assert step.reason == "aggregating 3 updates"
    with pytest.raises(RoundClosed, match="round 1 is closed"):
        play(step.round, Reported("d", a_receipt("d")))


def test_a_smaller_cohort_lowers_the_goal() -> None:
    state = rounds.advance(opened(), Candidates(("a", "b")), 5.0, POLICY).round
    state = play(state, *reports("a"))
    assert explain(state, 5.0, POLICY) == "waiting: 1 of 2 reports, 60 s left"
    assert play(state, *reports("b")).phase is Phase.AGGREGATION


def test_reasons_are_for_people() -> None:
    state = play(in_phase(Phase.REPORTING), *reports("a", "b"), ClientFailed("d", "no memory"))
    assert explain(state, 19.0, POLICY) == "waiting: 2 of 3 reports, 1 failed, 41 s left"
    assert explain(in_phase(Phase.CONFIGURATION), 1.0, POLICY) == "waiting: 0 of 4 tasks taken, 59 s left"
    assert explain(in_phase(Phase.COMMITTED), 1.0, POLICY) == "version 1 from 3 updates"


@pytest.mark.parametrize(("clients", "phase"), [("", Phase.ABANDONED), ("a", Phase.ABANDONED), ("ab", "AGGREGATION")])
def test_the_deadline_takes_the_minimum_or_abandons(clients: str, phase: Phase) -> None:
    state = play(in_phase(Phase.CONFIGURATION), *reports(*clients))
    before = rounds.advance(state, Tick(), 59.9, POLICY)
    assert before.round is state
    step = rounds.advance(state, Tick(), 60.0, POLICY)
    assert step.round.phase == phase
    if step.round.phase.is_final:
        assert "rounds.min_clients" in step.reason
        assert step.effects == ()  # nobody waits for the end of a round


def test_the_round_ends_early_when_all_have_spoken() -> None:
    state = play(in_phase(Phase.REPORTING), *reports("a", "b"), ClientFailed("c", "x"), ClientFailed("d", "y"))
    assert state.phase is Phase.REPORTING  # somebody may step in
    assert play(state, Candidates(NAMES)).phase is Phase.AGGREGATION


def test_too_many_failures_abandon_it_and_name_their_causes() -> None:
    failures = [ClientFailed(name, f"{name} broke") for name in "abc"]
    state = play(in_phase(Phase.REPORTING), *failures)
    assert state.phase is Phase.REPORTING  # somebody may step in
    state = play(state, Candidates(NAMES))
    assert state.phase is Phase.ABANDONED
    assert state.reason == (
        "3 of 4 clients failed, and no other is idle, so rounds.min_clients (2) cannot be reached: "
        "a: a broke; b: b broke; c: c broke"
    )


def test_a_deadline_names_who_failed_and_who_did_not_report() -> None:
    state = play(in_phase(Phase.REPORTING), *reports("a"), ClientFailed("b", "no memory"))
    assert play(state, Tick(), now=60.0).reason == (
        "the deadline passed with 1 of at least 2 reports (rounds.min_clients): b: no memory; c: no report; "
        "d: no report"
    )


def test_an_idle_client_steps_in_for_one_that_failed() -> None:
    state = play(in_phase(Phase.REPORTING), *reports("a"), ClientFailed("d", "no memory"))
    assert state.free_seats() == 1
    step = rounds.advance(state, Candidates((*NAMES, "e", "f")), 30.0, POLICY)
    (newcomer,) = step.round.participants.keys() - state.participants.keys()
    assert (newcomer in "ef", step.effects) == (True, (Effect.WAKE_AGENTS,))
    assert (step.round.deadline_at, step.round.free_seats()) == (state.deadline_at, 0)
    assert play(step.round, Candidates((*NAMES, "e", "f"))) is step.round
    after = play(step.round, *reports("b"), ClientFailed("c", "x"), ClientFailed(newcomer, "y"))
    (other,) = {*"ef"} - {newcomer}
    assert play(after, Candidates(("e", "f")), *reports(other)).phase is Phase.AGGREGATION


def test_an_idle_client_steps_in_for_one_that_fell_silent_and_both_may_report() -> None:
    state = play(in_phase(Phase.CONFIGURATION), *reports("a"))
    assert play(state, Candidates(("e",))) is state
    state = play(state, Candidates(("e",), silent=frozenset("d")))
    assert state.open_clients == {*"bcde"}
    assert play(state, *reports("d", "e")).phase is Phase.AGGREGATION


def test_nobody_steps_in_after_the_deadline() -> None:
    state = play(in_phase(Phase.REPORTING), *reports("a"), ClientFailed("b", "x"))
    state = play(state, Candidates(("e",)), now=60.0)
    assert (state.phase, set(state.participants)) == (Phase.ABANDONED, set(NAMES))


def test_an_evaluation_in_which_one_client_fails_goes_on_with_the_others() -> None:
    policy = a_policy(min_clients=1)
    state = rounds.advance(opened("evaluate"), Candidates(NAMES), 0.0, policy).round
    for event in (ClientFailed("a", "no test split"), Candidates((*NAMES, "e"))):
        state = rounds.advance(state, event, 1.0, policy).round
    assert state.open_clients == {*"bcde"}
    for name in "bcde":
        state = rounds.advance(state, Evaluated(name, a_result()), 2.0, policy).round
    assert rounds.advance(state, Candidates(NAMES), 2.0, policy).round.phase is Phase.COMMITTED


def test_who_rests_is_drawn_only_where_the_others_are_too_few() -> None:
    resting = frozenset("abc")
    assert {*play(opened(), Candidates((*NAMES, "e"), resting=resting)).participants} == {*"de"}
    assert {*"de"} < {*play(opened(), Candidates((*NAMES, "e"), resting=frozenset("ab"))).participants}
    alone = play(opened(), Candidates(NAMES, resting=resting))
    assert set(alone.participants) == set(NAMES)
    failing = play(alone, ClientFailed("a", "x"), ClientFailed("b", "y"))
    assert play(failing, Candidates(("e",), resting=frozenset("e"))) is failing  # c and d are enough
    failing = play(failing, ClientFailed("c", "z"))
    assert "e" in play(failing, Candidates(("e",), resting=frozenset("e"))).participants


@pytest.mark.parametrize("phase", [Phase.REPORTING, Phase.AGGREGATION, Phase.COMMITTED])
@pytest.mark.parametrize("text", ["a", "another"])
def test_the_first_report_stands(phase: Phase, text: str) -> None:
    state = in_phase(phase) if phase is not Phase.REPORTING else play(in_phase(phase), *reports("a"))
    assert rounds.advance(state, Reported("a", a_receipt(text)), 1.0, POLICY).round is state
    assert state.participants["a"].receipt == a_receipt("a")


def test_who_gave_up_may_not_report_and_who_reported_may_not_give_up() -> None:
    state = play(in_phase(Phase.REPORTING), *reports("a"), ClientFailed("b", "no memory"))
    for event in (TaskTaken("b"), Reported("b", a_receipt())):
        with pytest.raises(RoundClosed, match="no memory"):
            play(state, event)
    assert play(state, ClientFailed("a", "x")) is state
    assert play(state, ClientFailed("b", "again")) is state
    assert state.open_clients == {"c", "d"}


def test_strangers_are_refused() -> None:
    for phase in Phase:
        with pytest.raises(NotParticipant, match="'stranger' was not selected into round 1"):
            play(in_phase(phase), Reported("stranger", a_receipt()))


def test_a_result_must_be_the_next_version() -> None:
    with pytest.raises(IllegalTransition, match=r"result\.version is 3, but round 1 makes 1"):
        play(in_phase(Phase.AGGREGATION), Aggregated(a_version(3), {}, {}))


def test_an_evaluation_in_a_training_round_is_no_report() -> None:
    state = play(in_phase(Phase.REPORTING), *(Evaluated(name, a_result()) for name in NAMES))
    assert (state.phase, state.reports) == (Phase.REPORTING, 0)
    with pytest.raises(IllegalTransition, match="model_version is 7, but round 1 evaluates 0"):
        play(in_phase(Phase.REPORTING), Evaluated("a", a_result(7)))


def test_an_evaluation_round_takes_everybody_and_needs_no_aggregation() -> None:
    names = tuple("fedcba")
    state = play(opened("evaluate"), Candidates(names))
    assert set(state.participants) == set(names)
    policy = a_policy(min_clients=1)
    for name in names:
        assert state.phase in (Phase.CONFIGURATION, Phase.REPORTING)
        state = rounds.advance(state, Evaluated(name, a_result()), 1.0, policy).round
    assert state.phase is Phase.COMMITTED
    assert Phase.AGGREGATION not in state.phase_at
    with pytest.raises(IllegalTransition, match="only evaluates"):
        play(in_phase(Phase.REPORTING, "evaluate"), Reported("a", a_receipt()))


def test_an_evaluation_that_nobody_can_do_says_that_it_was_not_done() -> None:
    policy, state = a_policy(min_clients=1), in_phase(Phase.REPORTING, "evaluate")
    for name in NAMES[:3]:
        state = rounds.advance(state, ClientFailed(name, "no test split"), 1.0, policy).round
    late = rounds.advance(state, Tick(), 60.0, policy).round
    assert late.reason.startswith("the deadline passed and nobody has evaluated version 0: a: no test split; ")
    state = rounds.advance(state, ClientFailed("d", "no test split"), 1.0, policy).round
    assert rounds.advance(state, Candidates(NAMES), 2.0, policy).round.reason.startswith(
        "4 of 4 clients failed, and no other is idle, so nobody has evaluated version 0: a: no test split; "
    )


def test_an_evaluation_that_nobody_comes_to_is_given_up() -> None:
    assert rounds.advance(opened("evaluate"), Candidates(()), 59.0, POLICY).round.phase is Phase.SELECTION
    assert rounds.advance(opened("evaluate"), Candidates(()), 60.0, POLICY).round.phase is Phase.ABANDONED


def test_a_damaged_update_is_asked_for_again() -> None:
    state = in_phase(Phase.AGGREGATION)
    lost = UpdateLost("a", a_receipt("a").blob, "blob abc was damaged")
    step = rounds.advance(state, lost, 30.0, POLICY)
    assert (step.round.phase, step.round.reports, step.effects) == (Phase.REPORTING, 2, (Effect.WAKE_AGENTS,))
    assert step.round.open_clients == {"a", "d"}
    assert step.round.remaining_s(30.0) == POLICY.deadline_s  # time to train again
    assert step.round.participants["a"].lost == "blob abc was damaged"
    again = play(step.round, TaskTaken("a"), Reported("a", a_receipt("another")), now=40.0)
    assert (again.phase, again.phase_at[Phase.AGGREGATION]) == (Phase.AGGREGATION, 40.0)
    assert play(again, lost, now=41.0) is again  # a late report of the loss of the replaced update


def test_several_damaged_updates_are_asked_for_at_once() -> None:
    lost = [UpdateLost(name, a_receipt(name).blob, "damaged") for name in "ab"]
    state = play(in_phase(Phase.AGGREGATION), *lost, now=30.0)
    assert (state.phase, state.reports, state.open_clients) == (Phase.REPORTING, 1, {"a", "b", "d"})


def test_a_damaged_update_beyond_the_goal_costs_nothing() -> None:
    state = play(in_phase(Phase.REPORTING), *reports("a", "b"))
    both = replace(state, participants={**state.participants, "d": Participant(receipt=a_receipt("d"))})
    state = play(both, *reports("c"))
    assert (state.phase, state.reports) == (Phase.AGGREGATION, 4)
    assert play(state, UpdateLost("d", a_receipt("d").blob, "damaged")).phase is Phase.AGGREGATION


clients = st.sampled_from([*NAMES, "e", "stranger"])
any_event = st.one_of(
    st.lists(clients, unique=True).map(lambda names: Candidates(tuple(names))),
    st.builds(TaskTaken, clients),
    st.builds(lambda client, text: Reported(client, a_receipt(text)), clients, st.text(max_size=2)),
    st.builds(lambda client, version: Evaluated(client, a_result(version)), clients, st.integers(0, 1)),
    st.builds(ClientFailed, clients, st.just("broke")),
    st.builds(lambda client, text: UpdateLost(client, a_receipt(text).blob, "damaged"), clients, st.text(max_size=2)),
    st.just(Tick()),
    st.builds(lambda version: Aggregated(a_version(version), {}, {}), st.integers(0, 2)),
)
ORDER = list(Phase)


@settings(max_examples=150, deadline=None)
@pytest.mark.slow
@given(
    kind=st.sampled_from(["train", "evaluate"]),
    steps=st.lists(st.tuples(any_event, st.floats(0, 30)), max_size=40),
)
def test_no_sequence_of_events_breaks_a_round(kind: Any, steps: list[tuple[RoundEvent, float]]) -> None:
    policy = POLICY if kind == "train" else a_policy(min_clients=1)
    state, now = rounds.open_round(1, kind, 0, True, 0.0, policy), 0.0
    for event, pause in steps:
        now += pause
        before = state
        try:
            state, effects, reason = rounds.advance(before, event, now, policy)
        except DomainError:
            state = before
            continue
        lost = isinstance(event, UpdateLost) and state is not before
        assert lost or ORDER.index(state.phase) >= ORDER.index(before.phase)  # never an earlier phase
        assert reason
        moved = state.phase is not before.phase
        calls = moved and (state.phase is Phase.CONFIGURATION or (lost and state.phase is Phase.REPORTING))
        stepped_in = len(state.participants) > len(before.participants)
        assert (Effect.WAKE_AGENTS in effects) == (calls or stepped_in)
        assert (Effect.WAKE_AGGREGATOR in effects) == (moved and state.phase is Phase.AGGREGATION)
        if before.phase.is_final:
            assert state is before
        for client, each in before.participants.items():  # reports stay
            after = state.participants[client]
            assert each.receipt in (None, after.receipt) or (isinstance(event, UpdateLost) and client == event.client)
            assert each.failure in (None, after.failure)
            assert not (after.failure and after.receipt)
        assert not stepped_in or isinstance(event, Candidates)
        assert len(state.participants) - state.failures <= max(POLICY.cohort_size, len(NAMES) + 2)
        newcomers = state.participants.keys() - before.participants.keys()
        assert newcomers <= set(getattr(event, "names", ()))
        if state.phase in (Phase.AGGREGATION, Phase.COMMITTED):
            assert state.reports >= policy.min_clients
        assert (state.result is not None) == (state.phase is Phase.COMMITTED and kind == "train")
        assert (state.deadline_at is None) == (Phase.CONFIGURATION not in state.phase_at)
        assert list(state.phase_at.values()) == sorted(state.phase_at.values())
        assert bool(state.open_clients) <= (state.phase in (Phase.CONFIGURATION, Phase.REPORTING))


def test_a_client_left_out_of_the_result_is_reported() -> None:
    step = rounds.advance(
        in_phase(Phase.AGGREGATION), Aggregated(a_version(1), {}, {}, {"b": "far too long"}), 5.0, POLICY
    )
    assert step.round.participants["b"].dropped == "far too long"
    assert [name for name, each in step.round.participants.items() if each.dropped] == ["b"]
    assert step.round.reason == "version 1 from 2 updates; left out: b"
