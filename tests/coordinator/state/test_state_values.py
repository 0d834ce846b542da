"""The plain values of the state: what they derive from what they hold, and what an error carries to the doors."""

from __future__ import annotations

from dataclasses import replace

from coordinator.state import round as rounds
from coordinator.state.errors import InvalidJob, WrongOffset
from coordinator.state.round_state import Candidates, Phase, Policy, Tick
from tests.builders import a_job, a_policy


def test_a_round_has_the_seconds_left_until_its_deadline() -> None:
    opened = rounds.open_round(1, "train", 0, True, 100.0, a_policy())
    assert opened.remaining_s(100.0) == 0.0  # there is no deadline yet
    chosen = rounds.advance(opened, Candidates(tuple("abcd")), 100.0, a_policy()).round
    assert [chosen.remaining_s(now) for now in (100.0, 159.5, 160.0, 161.0)] == [60.0, 0.5, 0.0, 0.0]


def test_an_evaluation_without_clients_says_how_long_it_waited() -> None:
    opened = rounds.open_round(1, "evaluate", 2, True, 100.0, a_policy())
    ended = rounds.advance(opened, Tick(), 160.0, a_policy()).round
    assert (ended.phase, ended.reason) == (Phase.ABANDONED, "no client to evaluate within 60 s")


def test_a_jobs_rounds_wait_and_choose_as_its_document_says() -> None:
    numbers = {"min_clients": 3, "goal_clients": 4, "over_selection": 2.0, "deadline_s": 70, "selection_wait_s": 8}
    job = a_job(rounds=numbers, seed=7)
    train = Policy(min_clients=3, goal=4, cohort_size=8, deadline_s=70, selection_wait_s=8, seed=7)
    assert job.policy("train") == train
    assert job.policy("evaluate") == replace(train, min_clients=1)


def test_an_error_carries_what_the_doors_hand_on() -> None:
    rows = [{"field": "rounds", "problem": "is missing"}, {"field": "name", "problem": "is empty"}]
    invalid = InvalidJob(rows)
    assert (str(invalid), invalid.errors) == ("rounds: is missing; name: is empty", rows)
    wrong = WrongOffset("go on from byte 7", 7)
    assert (str(wrong), wrong.expected) == ("go on from byte 7", 7)
