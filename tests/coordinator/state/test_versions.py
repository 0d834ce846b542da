"""Which versions of a model there have been, which are kept, and which is the best."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.state import job as jobs
from coordinator.state.job_state import InRound, Job, LoadedBack, PreparedModel, Status
from coordinator.state.round_state import (
    Abandon,
    Aggregated,
    Candidates,
    Evaluated,
    EvaluationResult,
    Reported,
    RoundEvent,
    Tick,
)
from coordinator.state.versions import is_kept, versions
from fedgalore.best import Best
from tests.builders import a_job, a_prepared, a_receipt, a_version

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
    result = EvaluationResult(job.model.version, 10, {"accuracy": accuracy})
    return in_round(job, *(Evaluated(name, result) for name in PAIR))


def ended(job: Job) -> Job:
    """The job, its final model loaded back."""
    return jobs.advance(job, LoadedBack(), 0.0).job


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
    assert not is_kept(a_job(), 0)


def test_all_versions_are_kept_by_every_one() -> None:
    job = replace(running(rounds={"keep_versions": {"every": 1}}), model=a_version(40), status=Status.COMPLETED)
    assert all(is_kept(job, version) for version in range(41))


def test_versions_are_those_of_preparation_and_of_committed_rounds() -> None:
    job = trained(trained(running(), 0.5), 0.6)
    assert versions(job, [a_version(1), None, a_version(2)]) == {number: a_version(number) for number in range(3)}
    assert versions(a_job(), []) == {}
