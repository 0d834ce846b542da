"""What a job stores and which reasons it gives, from its creation to its end."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator.state import job as jobs
from coordinator.state.errors import IllegalTransition
from coordinator.state.job_events import Cancel, InRound, LoadedBack, Pause, PreparationFailed, PreparedModel, Resume
from coordinator.state.job_state import Job, Status
from coordinator.state.job_words import explain
from coordinator.state.round_state import Abandon, Aggregated, Candidates, Effect, Evaluated, Phase, Reported, Tick
from coordinator.state.setbacks import TRIES_UNTIL_PAUSE
from tests.builders import a_job, a_prepared, a_receipt, a_result, a_spec, a_version

PAIR = ("a", "b")
PRIVACY = {"clip_norm": 1.0, "noise_multiplier": 1.0}


def after(job: Job, *events: Any, now: float = 0.0) -> Job:
    for event in events:
        job = jobs.advance(job, event, now).job
    return job


def in_round(number: int, *events: Any) -> list[InRound]:
    return [InRound(number, event) for event in events]


def running() -> Job:
    return after(a_job(), PreparedModel(a_prepared()))


def started() -> Job:
    """A job whose first round is under way."""
    return after(running(), Tick(), *in_round(1, Candidates(PAIR)))


def test_a_new_job_waits_for_its_preparation() -> None:
    job = jobs.create("job-7", a_spec(), 5.0, idempotency_key="key", secret="0a")
    assert (job.id, job.status, job.created_at, job.updated_at) == ("job-7", Status.PENDING, 5.0, 5.0)
    assert (job.idempotency_key, job.rounds_opened, job.model) == ("key", 0, None)
    assert "model.source" in job.reason


def test_only_a_job_with_privacy_keeps_a_secret() -> None:
    assert jobs.create("job-7", a_spec(), 5.0, secret="0a").secret is None
    assert (
        jobs.create("job-7", a_spec(privacy=PRIVACY, method={"state_sync": "reset"}), 5.0, secret="0a").secret == "0a"
    )


def test_between_rounds_a_job_says_that_the_next_round_opens() -> None:
    job = running()
    assert job.reason == ""
    assert "next round" in explain(job, 1.0).reason


def test_a_training_round_waits_for_the_minimum_of_its_job() -> None:
    job = after(running(), Tick())
    assert job.round is not None
    assert "2 do after 5 s" in job.round.reason


def test_a_training_round_below_the_minimum_is_abandoned_at_its_deadline() -> None:
    reported = after(started(), *in_round(1, Reported("a", a_receipt("a"))))
    step = jobs.advance(reported, Tick(), 60.0)
    assert step.closed is not None
    assert step.closed.phase is Phase.ABANDONED
    assert step.job.abandoned_in_a_row == 1
    assert step.job.reason == f"round 1 abandoned: {step.closed.reason}"


def test_what_went_wrong_before_stays_beside_what_goes_on() -> None:
    job = after(after(started(), *in_round(1, Abandon("broke"))), Tick(), now=5.0)
    assert job.round is not None
    reason = explain(job, 1.0).reason
    assert reason.startswith("round 2: waiting")
    assert reason.endswith("(round 1 abandoned: broke)")
    paused = explain(after(job, Pause()), 1.0).reason
    assert paused.startswith("paused by the operator")
    assert "; round 2: waiting" in paused


def test_effects_of_the_round_are_effects_of_the_job() -> None:
    step = jobs.advance(after(running(), Tick()), InRound(1, Candidates(PAIR)), 1.0)
    assert step.effects == (Effect.WAKE_AGENTS,)
    assert jobs.advance(step.job, Tick(), 1.0).effects == ()
    assert jobs.advance(a_job(), PreparedModel(a_prepared()), 1.0).effects == ()


def test_a_preparation_that_failed_says_why() -> None:
    assert after(a_job(), PreparationFailed("no such folder")).reason == "no such folder"


def test_a_cancelled_job_says_so_and_its_round_ends() -> None:
    step = jobs.advance(started(), Cancel(), 9.0)
    assert (step.job.round, step.job.reason) == (None, "cancelled by the operator")
    assert step.closed is not None
    assert (step.closed.phase, step.closed.phase_at[Phase.ABANDONED]) == (Phase.ABANDONED, 9.0)


def test_a_resumed_job_starts_with_a_clean_record() -> None:
    job = running()
    for number in range(1, TRIES_UNTIL_PAUSE + 1):
        job = after(after(job, Tick(), now=1000.0 * number), *in_round(number, Abandon("broke")), now=1000.0 * number)
    assert (job.status, job.abandoned_in_a_row) == (Status.PAUSED, TRIES_UNTIL_PAUSE)
    resumed = after(job, Resume())
    assert (resumed.status, resumed.reason, resumed.abandoned_in_a_row) == (Status.RUNNING, "", 0)
    assert after(resumed, Tick()).round is not None  # at once


def test_a_completed_job_names_its_last_version_and_how_it_was_evaluated() -> None:
    job = running()
    for number in (1, 2):
        reports = (Reported(name, a_receipt(name)) for name in PAIR)
        result = Aggregated(a_version(number), {}, {})
        job = after(job, Tick(), *in_round(number, Candidates(PAIR), *reports, result))
    job = after(job, Tick(), *in_round(3, Candidates(PAIR)), now=10.0)
    job = after(job, *in_round(3, *(Evaluated(name, a_result(2)) for name in PAIR)), LoadedBack(2))
    assert job.status is Status.COMPLETED
    assert job.reason == "version 2 is final; version 2 evaluated by 2 clients"


@pytest.mark.parametrize(
    ("job", "event", "words"),
    [
        (
            after(a_job(), Cancel()),
            Resume(),
            "CANCELLED and cannot be resumed; .*`fedgalore jobs clone job-1 --from-base`",
        ),
        (replace(running(), status=Status.COMPLETED), Cancel(), "job-1 is COMPLETED: .* there is nothing to cancel$"),
        (a_job(), Resume(), "job job-1 is PENDING: only a paused job can be resumed$"),
        (running(), PreparedModel(a_prepared()), "job job-1 is RUNNING: PreparedModel has no place there$"),
    ],
    ids=["resumed when over", "cancelled when over", "resumed too early", "prepared again"],
)
def test_a_refusal_names_the_status_and_the_way_on(job: Job, event: Any, words: str) -> None:
    with pytest.raises(IllegalTransition, match=words):
        jobs.advance(job, event, 1.0)
