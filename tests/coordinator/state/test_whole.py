"""Whole weights that somebody waits for, and what a job becomes without them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from coordinator.state import job as jobs
from coordinator.state import whole
from coordinator.state.job_events import (
    AggregationFailed,
    JobEvent,
    PreparedModel,
    Resume,
    RollBack,
    WeightsLost,
    WeightsMade,
    WeightsWanted,
)
from coordinator.state.job_state import Job, Status
from coordinator.state.job_words import explain
from coordinator.state.round_state import Aggregated, Candidates, ModelVersion, Reported, Tick
from coordinator.state.versions import versions, with_weights
from fedgalore.chain import Chain, Cut, Earlier
from tests.builders import a_blob, a_job, a_prepared, a_receipt, a_step_on, a_version, in_flight

PAIR = ("a", "b")
WEIGHTS = a_blob("whole")


def play(job: Job, *events: JobEvent) -> Job:
    for event in events:
        job = jobs.advance(job, event, 0.0).job
    return job


def trained(count: int, **sections: object) -> Job:
    """A job after so many rounds, each of which made a version by a cut."""
    job = play(a_job(rounds={"count": 9, **sections}), PreparedModel(a_prepared()))
    for _ in range(count):
        job = reported(job)
        assert job.model is not None
        job = play(job, in_flight(job, Aggregated(a_step_on(job.model), {}, {})))
    return job


def reported(job: Job) -> Job:
    """The job with all reports of its next round."""
    job = play(job, Tick())
    for event in (Candidates(PAIR), *(Reported(name, a_receipt(name)) for name in PAIR)):
        job = play(job, in_flight(job, event))
    return job


def made(count: int) -> list[ModelVersion]:
    """Versions 1 to `count` of such a job."""
    results = [a_version(0)]
    for _ in range(count):
        results.append(a_step_on(results[-1]))
    return results[1:]


def test_weights_are_wanted_until_they_are_made_or_lost() -> None:
    job = trained(3)
    assert (whole.next_wanted(job), job.wanted) == (None, frozenset())
    asked = play(job, WeightsWanted(2), WeightsWanted(1), WeightsWanted(2))
    assert (whole.next_wanted(asked), asked.wanted) == (1, {1, 2})
    done = play(asked, WeightsMade(1, WEIGHTS))
    assert (whole.next_wanted(done), done.whole) == (2, {1: WEIGHTS})
    assert versions(done, made(3))[1].made_of == (WEIGHTS,)
    assert versions(done, made(3))[2].made_of == made(3)[1].chain.blobs
    lost = play(done, WeightsLost(2, "blob 12 is damaged"))
    assert (whole.next_wanted(lost), lost.wishes, lost.status) == (None, {2: "blob 12 is damaged"}, Status.RUNNING)
    assert play(lost, WeightsWanted(2)).wanted == {2}  # asked again: it may have been mended
    assert play(done, WeightsWanted(1)) is done
    assert Job.from_json(lost.to_json()) == lost


def test_weights_of_a_version_that_is_kept_no_more_are_forgotten() -> None:
    job = play(trained(3, keep_versions={"last": 2}), WeightsMade(2, WEIGHTS), WeightsMade(3, WEIGHTS))
    job = reported(job)
    assert job.model is not None
    after = play(job, in_flight(job, Aggregated(a_step_on(job.model), {}, {})))
    assert after.whole == {3: WEIGHTS}


def closing(job: Job) -> Job:
    return replace(job, closing="version 3 is final", best_model=made(2)[1])


def test_a_job_ends_with_whole_weights_of_its_final_and_its_best_version() -> None:
    job = closing(trained(3))
    assert (whole.missing_at_end(job), whole.next_wanted(job)) == ([2, 3], 2)
    job = play(job, WeightsMade(2, WEIGHTS))
    assert (whole.missing_at_end(job), whole.next_wanted(job)) == ([3], 3)
    assert not whole.missing_at_end(play(job, WeightsMade(3, WEIGHTS)))


def test_a_job_that_cannot_end_pauses_says_why_and_tries_again_when_it_is_resumed() -> None:
    job = play(closing(trained(3)), WeightsMade(2, WEIGHTS), WeightsLost(3, "blob 12 is damaged; restore it"))
    assert (job.status, whole.next_wanted(job)) == (Status.PAUSED, None)
    assert explain(job, 0.0).reason == "version 3 is final; blob 12 is damaged; restore it"
    again = play(job, Resume())
    assert (again.status, whole.next_wanted(again)) == (Status.RUNNING, 3)


def test_an_ended_job_is_at_rest_while_nobody_waits_for_weights() -> None:
    job = replace(trained(2), status=Status.COMPLETED)
    asked = play(job, WeightsWanted(1))
    assert (job.is_at_rest, asked.is_at_rest, asked.status) == (True, False, Status.COMPLETED)
    assert play(asked, WeightsMade(1, WEIGHTS)).is_at_rest


def test_a_round_that_fails_by_what_is_lost_pauses_its_job_at_once() -> None:
    job = reported(trained(2))
    assert job.round is not None
    after = play(job, AggregationFailed(job.round.number, "blob 12 is missing; restore it", lost=True))
    assert (after.status, after.round) == (Status.PAUSED, None)
    assert after.reason == "round 3 abandoned: aggregation failed: blob 12 is missing; restore it"


@pytest.mark.parametrize(("version", "serves"), [(6, 5), (5, 4), (4, 0), (0, None)])
def test_what_is_lost_leaves_the_kept_versions_before_it(version: int, serves: int | None) -> None:
    job = trained(6)  # versions 4 to 6 are kept, and version 0 until the job ends
    assert whole.serving(job, version) == serves
    words = whole.remedy(job, version)
    assert words.startswith("restore it, or ")
    assert ("post the job again" in words) == (serves is None)
    assert (f"fedgalore jobs rollback job-1 --version {serves}" in words) == (serves is not None)


def test_a_rollback_takes_the_chain_of_its_version() -> None:
    job = trained(4)
    target = made(3)[2]
    back = play(job, RollBack(target))
    assert back.model is not None
    assert (back.model.version, back.model.chain, back.model.aggregate) == (5, target.chain, None)
    assert back.trail.chain.id == target.chain.id  # whoever holds version 3 holds version 5
    on = play(reported(back), in_flight(reported(back), Aggregated(a_step_on(back.model), {}, {})))
    assert [cut.version for cut in on.trail.cuts] == [1, 2, 3, 6]


def test_a_version_that_no_cut_made_is_its_weights_alone_for_all_clients() -> None:
    job = trained(2)
    chain = Chain.start(WEIGHTS, 3)
    job = play(reported(job), in_flight(reported(job), Aggregated(ModelVersion(3, chain, WEIGHTS), {}, {})))
    assert (job.trail.chain.id, job.trail.blobs) == (WEIGHTS.sha256, (WEIGHTS,))
    assert job.trail.way(a_version(2).chain.id).whole
    step = a_step_on(job.model)
    on = play(reported(job), in_flight(reported(job), Aggregated(step, {}, {})))
    assert on.trail.way(WEIGHTS.sha256).cuts == (Cut(4, step.aggregate),)  # whoever holds them goes on by cuts


def test_cuts_that_led_to_a_checkpoint_are_named_until_a_rollback_goes_behind_it() -> None:
    job = trained(2)
    before = job.model
    assert before is not None
    step = a_step_on(before)
    checkpoint = replace(step, chain=step.chain.ended(3, WEIGHTS), weights=WEIGHTS)
    job = play(reported(job), in_flight(reported(job), Aggregated(checkpoint, {}, {})))
    assert step.aggregate is not None
    assert (job.earlier, job.trail.cuts[-1].blob) == (job.trail.earlier, step.aggregate)
    assert job.trail.earlier.end == job.trail.chain.checkpoint.id
    assert play(job, RollBack(before)).trail.earlier == Earlier(a_version(0).chain.id)
    again = play(reported(job), in_flight(reported(job), Aggregated(a_step_on(checkpoint), {}, {})))
    assert play(again, RollBack(checkpoint)).earlier == job.earlier  # the same checkpoint
    assert with_weights(job, checkpoint).weights == WEIGHTS
