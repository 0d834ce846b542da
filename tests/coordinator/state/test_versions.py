"""Which versions of a model there have been, which are kept, and which is the best."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.state import job as jobs
from coordinator.state.errors import IllegalTransition, VersionNotFound
from coordinator.state.job_events import Cancel, InRound, LoadedBack, PreparedModel, Resume, RollBack
from coordinator.state.job_state import Job, Rollback, Status
from coordinator.state.round_state import (
    Abandon,
    Aggregated,
    Candidates,
    Evaluated,
    ModelVersion,
    Phase,
    Reported,
    RoundEvent,
    Tick,
)
from coordinator.state.stream_events import changes
from coordinator.state.versions import is_kept, versions
from fedgalore.best import Best
from tests.builders import a_job, a_prepared, a_receipt, a_result, a_version

PAIR = ("a", "b")
KEEP = {"keep": {"metric": "accuracy"}}


def running(**sections: Any) -> Job:
    return jobs.advance(a_job(**sections), PreparedModel(a_prepared()), 0.0).job


def in_round(job: Job, *events: RoundEvent) -> Job:
    for event in events:
        assert job.round is not None
        job = jobs.advance(job, InRound(job.round.number, event), 0.0).job
    return job


def evaluating(job: Job, accuracy: float) -> Job:
    """The job in its next round, with evaluations of the version that it starts from."""
    job = in_round(jobs.advance(job, Tick(), 0.0).job, Candidates(PAIR))
    assert job.model is not None
    result = a_result(job.model.version, 10, accuracy=accuracy)
    return in_round(job, *(Evaluated(name, result) for name in PAIR))


def ended(job: Job) -> Job:
    """The job, its final model loaded back."""
    return jobs.advance(job, LoadedBack(job.ready().model.version), 0.0).job


def trained(job: Job, accuracy: float) -> Job:
    """The job after a round that started from a version of this accuracy."""
    job = in_round(evaluating(job, accuracy), *(Reported(name, a_receipt(name)) for name in PAIR))
    assert job.model is not None
    return in_round(job, Aggregated(a_version(job.model.version + 1), {}, {}))


def test_the_best_version_is_that_of_the_round_that_evaluated_it() -> None:
    job = running(rounds={"count": 3}, evaluation=KEEP)
    assert (job.best, job.best_model) == (None, None)
    for accuracy in (0.2, 0.9, 0.4):
        job = trained(job, accuracy)
    assert (job.best, job.best_model, job.model) == (Best(1, 0.9, 0.9, since=1), a_version(1), a_version(3))
    job = ended(evaluating(job, 0.95))
    assert (job.status, job.best_model) == (Status.COMPLETED, a_version(3))
    assert job.reason.endswith("version 3 is the best: accuracy 0.95")


def test_what_an_abandoned_round_measured_does_not_count() -> None:
    """The next round starts from the same version, and measures it anew."""
    job = in_round(evaluating(trained(running(evaluation=KEEP), 0.5), 0.9), Abandon("broke"))
    assert job.best == Best(0, 0.5, 0.5)


def test_what_is_held_out_decides_where_no_client_measures() -> None:
    """Also of the last version, whose evaluation by the clients is abandoned then."""
    job = running(rounds={"count": 1}, evaluation={"central": "topics", **KEEP})
    job = replace(job, model=replace(a_version(0), held_out=a_result(0, 10, accuracy=0.7)))
    job = in_round(
        jobs.advance(job, Tick(), 0.0).job, Candidates(PAIR), *(Reported(name, a_receipt(name)) for name in PAIR)
    )
    last = replace(a_version(1), held_out=a_result(1, 10, accuracy=0.9))
    job = in_round(job, Aggregated(last, {}, {}))
    assert job.best == Best(0, 0.7, 0.7, by="central")
    job = in_round(jobs.advance(job, Tick(), 0.0).job, Candidates(PAIR), Abandon("nobody has test examples"))
    assert (job.best, job.best_model) == (Best(1, 0.9, 0.9, by="central"), last)
    assert ended(job).reason.endswith("version 1 is the best: accuracy 0.9 on the held-out set")


def test_a_round_that_is_held_again_is_judged_by_what_is_held_out_once() -> None:
    job = running(evaluation={"central": "topics", "keep": {"metric": "accuracy", "by": "central", "patience": 9}})
    job = replace(job, model=replace(a_version(0), held_out=a_result(0, 10, accuracy=0.7)))
    assert in_round(evaluating(job, 0.9), Abandon("broke")).best is None
    assert trained(job, 0.9).best == Best(0, 0.7, 0.7, by="central")


def test_patience_ends_a_job_with_the_evaluation_of_its_last_version() -> None:
    job = running(rounds={"count": 50}, evaluation={"keep": {"metric": "accuracy", "patience": 2}})
    for accuracy in (0.5, 0.8, 0.7, 0.7):
        assert job.status is Status.RUNNING
        job = trained(job, accuracy)
    opened = jobs.advance(job, Tick(), 0.0).job.round
    assert opened is not None
    assert (opened.kind, opened.model_version, opened.evaluate) == ("evaluate", 4, True)
    job = ended(evaluating(job, 0.9))
    assert (job.status, job.best_model) == (Status.COMPLETED, a_version(4))
    job = ended(evaluating(running_to(4), 0.6))
    assert job.status is Status.COMPLETED
    assert "ended early: no improvement in 3 evaluations (evaluation.keep.patience)" in job.reason
    assert "version 1 is the best: accuracy 0.8" in job.reason


def running_to(version: int) -> Job:
    job = running(rounds={"count": 50}, evaluation={"keep": {"metric": "accuracy", "patience": 2}})
    for accuracy in (0.5, 0.8, 0.7, 0.7)[:version]:
        job = trained(job, accuracy)
    return job


@pytest.mark.parametrize(
    ("policy", "kept"),
    [({}, {0, 2, 18, 19, 20}), ({"last": 1}, {0, 2, 20}), ({"every": 8}, {0, 2, 8, 16, 18, 19, 20})],
)
def test_the_newest_the_best_and_those_of_the_policy_are_kept(policy: dict[str, int], kept: set[int]) -> None:
    job = running(rounds={"count": 30, "keep_versions": policy}, evaluation=KEEP)
    job = replace(job, model=a_version(20), best_model=a_version(2))
    assert {version for version in range(25) if is_kept(job, version)} == {*kept, 21, 22, 23, 24}
    over = replace(job, status=Status.COMPLETED)
    assert is_kept(over, 0) == ("every" in policy)
    assert is_kept(replace(over, status=Status.RUNNING, was_completed=True), 0) == ("every" in policy)
    assert not is_kept(a_job(), 0)


def test_all_versions_are_kept_by_every_one() -> None:
    job = replace(running(rounds={"keep_versions": {"every": 1}}), model=a_version(40), status=Status.COMPLETED)
    assert all(is_kept(job, version) for version in range(41))


def test_versions_are_those_of_preparation_and_of_committed_rounds() -> None:
    job = trained(trained(running(), 0.5), 0.6)
    assert versions(job, [a_version(1), None, a_version(2)]) == {number: a_version(number) for number in range(3)}
    assert versions(a_job(), []) == {}


def rolled_back(job: Job, to: int) -> Job:
    return jobs.advance(job, RollBack(a_version(to)), 7.0).job


def test_a_rollback_makes_a_new_version_of_an_earlier_ones_weights_and_state() -> None:
    job = trained(running(rounds={"count": 5}), 0.5)
    for accuracy in (0.6, 0.7):
        job = trained(job, accuracy)
    back = rolled_back(job, 1)
    made = ModelVersion(4, a_version(1).chain, a_version(1).weights, state=a_version(1).state)
    assert (back.status, back.model, back.rollbacks) == (Status.RUNNING, made, (Rollback(made, 1),))
    assert (back.contributions, back.rounds_behind(4), back.rounds_behind(3)) == ({}, 1, 3)
    assert back.reason == "version 4 has the weights of version 1, to which it was rolled back"
    assert versions(back, [a_version(number) for number in (1, 2, 3)])[4] == made
    on = trained(back, 0.5)
    assert on.model is not None
    assert (on.model.version, on.rounds_behind(5), on.reason) == (5, 2, "")
    assert Job.from_json(back.to_json()) == back


def test_as_many_rounds_follow_as_the_job_has_beyond_the_version() -> None:
    job = running(rounds={"count": 3, "keep_versions": {"every": 1}})
    for _ in range(3):
        job = trained(job, 0.5)
    back = rolled_back(ended(evaluating(job, 0.5)), 1)
    assert (back.status, back.was_completed) == (Status.PAUSED, True)
    assert back.reason.endswith("; resume the job to train on (2 of 3 rounds are left)")
    job = jobs.advance(back, Resume(), 8.0).job
    for _ in range(2):
        job = trained(job, 0.5)
    assert job.model is not None
    assert (job.model.version, job.rounds_behind(6)) == (6, 3)
    assert ended(evaluating(job, 0.5)).status is Status.COMPLETED
    twice = rolled_back(rolled_back(job, 5), 4)  # version 5 is of round 2, version 4 of round 1
    assert [twice.rounds_behind(version) for version in range(9)] == [0, 1, 2, 3, 1, 2, 3, 2, 1]


def test_a_rollback_ends_the_round_in_flight() -> None:
    job = evaluating(trained(running(), 0.5), 0.6)
    step = jobs.advance(job, RollBack(a_version(0)), 3.0)
    assert (step.job.status, step.job.round, step.job.abandoned_in_a_row) == (Status.RUNNING, None, 0)
    assert step.closed is not None
    assert (step.closed.phase, step.closed.reason) == (Phase.ABANDONED, "the job was rolled back to version 0")
    rows = changes(job, step.job, step.closed, step.reason)
    assert ("job.rollback", {"model_version": 2, "of": 0}) in rows


def test_a_model_that_is_loaded_back_gives_way_to_a_rollback() -> None:
    job = trained(running(rounds={"count": 1}), 0.5)
    job = in_round(jobs.advance(job, Tick(), 0.0).job, Candidates(PAIR))
    job = in_round(job, *(Evaluated(name, a_result(1, 10, accuracy=0.5)) for name in PAIR))
    assert job.closing is not None
    back = rolled_back(job, 0)
    assert (back.status, back.closing) == (Status.RUNNING, None)
    with pytest.raises(IllegalTransition, match="rounds to come"):
        jobs.advance(back, LoadedBack(back.ready().model.version), 1.0)


def test_asking_for_a_rollback_twice_is_asking_once() -> None:
    back = rolled_back(trained(running(), 0.5), 0)
    assert rolled_back(back, 0) is back


def test_patience_begins_anew_and_the_best_version_stays() -> None:
    job = running_to(4)
    back = rolled_back(job, 2)
    assert job.best is not None
    assert (back.best, back.best_model) == (replace(job.best, since=0), a_version(1))
    opened = jobs.advance(back, Tick(), 9.0).job.round
    assert opened is not None
    assert opened.kind == "train"


@pytest.mark.parametrize(
    ("to", "error", "words"),
    [
        (5, IllegalTransition, "version: 5 of job job-1 is the current one; name an earlier version"),
        (6, VersionNotFound, "version: 6 of job job-1 does not exist yet"),
        (1, VersionNotFound, "version: 1 of job job-1 is no longer kept"),
    ],
)
def test_what_cannot_be_made_current_is_refused(to: int, error: type[Exception], words: str) -> None:
    job = replace(running(rounds={"count": 9}), model=a_version(5))
    with pytest.raises(error, match=words):
        rolled_back(job, to)


def test_a_shared_basis_goes_on_from_no_version_without_one() -> None:
    job = trained(running(method={"kind": "fedgalore", "rank": 2, "basis": "shared"}), 0.5)
    with pytest.raises(IllegalTransition, match="version: 0 of job job-1 has no basis"):
        rolled_back(job, 0)
    assert rolled_back(trained(job, 0.5), 1).model is not None


def test_a_job_that_failed_behind_its_last_round_has_a_way_back() -> None:
    job = trained(trained(running(), 0.5), 0.4)
    closing = replace(job, round=None, closing="version 2 is final")
    failed = jobs.advance(
        closing, LoadedBack(2, "version 2 is downloaded, and other answers of it are infinite"), 1.0
    ).job
    assert failed.status is Status.FAILED
    assert failed.reason.endswith("; go back to version 1 (`fedgalore jobs rollback job-1 --version 1`)")
    back = rolled_back(failed, 1)
    assert (back.status, back.ready().model.version, back.rounds_behind(3)) == (Status.PAUSED, 3, 1)
    assert jobs.advance(back, Resume(), 2.0).job.status is Status.RUNNING


def test_jobs_without_a_version_and_jobs_that_were_ended_have_no_way_back() -> None:
    with pytest.raises(IllegalTransition, match="PENDING: it has no version yet; wait for its preparation"):
        rolled_back(a_job(), 0)
    cancelled = jobs.advance(trained(running(), 0.5), Cancel(), 1.0).job
    with pytest.raises(IllegalTransition, match="CANCELLED and cannot be rolled back; .*`fedgalore jobs clone job-1`"):
        rolled_back(cancelled, 0)
