"""Steps that are saved together come to what they come to one after the other."""

from __future__ import annotations

from dataclasses import replace

from coordinator.state import job as jobs
from coordinator.state.errors import NotParticipant, RoundNotInFlight
from coordinator.state.job_events import InRound, JobEvent, PreparedModel
from coordinator.state.job_state import Job
from coordinator.state.round_state import Aggregated, Candidates, ClientFailed, Effect, Reported, TaskTaken, Tick
from coordinator.state.steps import Decide, Steps, take
from coordinator.state.stream_events import changes
from tests.builders import a_job, a_prepared, a_receipt, a_version


def in_configuration() -> Job:
    job = a_job()
    for event in (PreparedModel(a_prepared()), Tick(), InRound(1, Candidates(("a", "b")))):
        job = jobs.advance(job, event, 1.0).job
    return job


def taken(job: Job, *events: JobEvent | None) -> Steps:
    def decided(event: JobEvent | None) -> Decide:
        return lambda job: event

    return take(job, [decided(event) for event in events], 2.0)


def test_they_come_to_what_they_come_to_one_by_one() -> None:
    before = in_configuration()
    told = [InRound(1, TaskTaken(client)) for client in "ab"] + [InRound(1, Reported("a", a_receipt()))]
    job, events = before, []
    for event in told:
        step = jobs.advance(job, event, 2.0)
        events += changes(job, step.job, step.closed, step.reason)
        job = step.job
    steps = taken(before, *told)
    assert (steps.job, steps.events, steps.outcomes) == (job, events, [True] * 3)
    assert steps.changed
    assert Effect.WAKE_DRIVER not in steps.effects  # a round at work waits for its clients


def test_each_hears_of_its_own_step() -> None:
    before = in_configuration()
    reported = InRound(1, Reported("a", a_receipt()))
    steps = taken(before, reported, InRound(1, Reported("c", a_receipt())), reported, None)
    first, stranger, again, nothing = steps.outcomes
    assert (first, again, nothing) == (True, False, False)
    assert isinstance(stranger, NotParticipant)
    assert steps.job == taken(before, reported).job


def test_nothing_changes_where_nothing_is_said_anew() -> None:
    before = in_configuration()
    steps = taken(before, None, InRound(2, TaskTaken("a")))
    assert isinstance(steps.outcomes[1], RoundNotInFlight)
    assert steps.job is before
    assert (steps.changed, steps.events) == (False, [])


def test_what_is_said_behind_the_end_of_a_round_waits_until_that_is_saved() -> None:
    before = taken(in_configuration(), *(InRound(1, Reported(client, a_receipt(client))) for client in "ab")).job
    late = InRound(1, ClientFailed("b", "too late"))
    steps = taken(before, InRound(1, Aggregated(a_version(1), {}, {})), late)
    assert steps.outcomes == [True]
    assert steps.closed is not None
    assert steps.closed.result == a_version(1)
    assert Effect.WAKE_DRIVER in steps.effects  # which opens the next one


def test_a_free_seat_wakes_the_driver() -> None:
    failed = taken(in_configuration(), InRound(1, ClientFailed("a", "no memory")))
    assert Effect.WAKE_DRIVER in failed.effects
    assert replace(failed.job, round=None).waits_for_reports is False
