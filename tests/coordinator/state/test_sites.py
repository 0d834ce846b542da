"""What a job makes of its sites' answers: whom it asks, whom it draws, when it waits for a person."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from coordinator.state import job as jobs
from coordinator.state.errors import IllegalTransition
from coordinator.state.job_events import (
    InRound,
    JobEvent,
    PreparationFailed,
    PreparedModel,
    Resume,
    SiteChecked,
    SitesSeen,
)
from coordinator.state.job_state import Job, Status
from coordinator.state.job_words import explain
from coordinator.state.round_state import Candidates, Effect, Phase, Tick
from coordinator.state.sites import MOST_NAMED, SiteCheck, SiteFacts, too_few_fit
from coordinator.state.stream_events import changes
from fedgalore.sizing import SiteMemory, TextMemory
from tests.builders import a_job, a_prepared

PRESENT = {"a": 1.0, "b": 1.0, "c": 1.0}
FACTS = SiteFacts(20, 10, 2, 40)
WRONG = "train.csv, row 3, column 'label': 'x' is no class of this job; correct it"


def play(job: Job, *events: JobEvent, now: float = 0.0) -> Job:
    for event in events:
        job = jobs.advance(job, event, now).job
    return job


def fits(*clients: str) -> list[SiteChecked]:
    return [SiteChecked(client, None, FACTS) for client in clients]


def wrong(*clients: str) -> list[SiteChecked]:
    return [SiteChecked(client, WRONG, FACTS) for client in clients]


def test_present_sites_are_asked_once_and_again_when_their_agent_registers_anew() -> None:
    step = jobs.advance(a_job(), SitesSeen(PRESENT), 5.0)
    assert step.job.unanswered == {"a", "b", "c"}
    assert step.effects == (Effect.WAKE_AGENTS,)
    job = play(step.job, *fits("a", "b"), *wrong("c"), now=6.0)
    assert job.unanswered == frozenset()
    assert job.sites["a"] == SiteCheck(1.0, 6.0, None, FACTS)
    assert play(job, *fits("c")) is job  # the first answer stands
    seen = play(job, SitesSeen(PRESENT))
    assert seen is job
    again = play(job, SitesSeen({**PRESENT, "c": 7.0}), now=8.0)
    assert again.unanswered == {"c"}
    assert again.sites["c"] == SiteCheck(7.0)


def test_who_was_not_asked_has_nothing_to_answer() -> None:
    job = a_job()
    assert play(job, *fits("a")) is job


def test_a_job_that_too_few_sites_fit_pauses_when_all_that_are_present_have_answered() -> None:
    job = play(a_job(), SitesSeen(PRESENT), *fits("a"), *wrong("b"), SitesSeen(PRESENT))
    assert job.status is Status.PENDING  # c may fit
    job = play(job, *wrong("c"), SitesSeen(PRESENT))
    assert job.status is Status.PAUSED
    for words in ("1 of 3 present sites fit the job, and rounds.min_clients is 2", f"b: {WRONG}", f"c: {WRONG}"):
        assert words in job.reason
    assert "a: " not in job.reason


def test_enough_sites_that_fit_carry_the_job_without_the_others() -> None:
    job = play(a_job(), SitesSeen(PRESENT), *fits("a", "b"), *wrong("c"), SitesSeen(PRESENT))
    assert job.status is Status.PENDING
    assert explain(job, 0.0).reason.endswith("; data do not fit at c")


def test_where_nobody_has_said_no_a_job_waits_for_more_agents() -> None:
    job = play(a_job(), SitesSeen({"a": 1.0}), *fits("a"), SitesSeen({"a": 1.0}))
    assert job.status is Status.PENDING


def test_only_sites_that_are_present_count() -> None:
    job = play(a_job(), SitesSeen(PRESENT), *fits("a", "b"), *wrong("c"))
    assert play(job, SitesSeen({"a": 1.0, "c": 1.0})).status is Status.PAUSED
    assert play(job, SitesSeen({"a": 1.0, "b": 1.0})).status is Status.PENDING


def test_a_job_paused_before_it_has_a_model_is_prepared_when_it_is_resumed() -> None:
    paused = play(a_job(), SitesSeen(PRESENT), *wrong("a", "b", "c"), SitesSeen(PRESENT))
    resumed = jobs.advance(paused, Resume(), 1.0)
    assert (resumed.job.status, resumed.job.sites) == (Status.PENDING, {})  # all are asked again
    assert resumed.effects == (Effect.WAKE_AGGREGATOR,)
    prepared = play(paused, PreparedModel(a_prepared()))
    assert (prepared.status, prepared.reason) == (Status.PAUSED, paused.reason)
    assert play(prepared, Resume()).status is Status.RUNNING
    assert play(paused, PreparationFailed("no such folder")).status is Status.FAILED
    with pytest.raises(IllegalTransition, match="PAUSED"):
        play(prepared, PreparationFailed("no such folder"))


def test_sites_that_fit_are_not_asked_again_when_a_job_is_resumed() -> None:
    job = play(a_job(), SitesSeen(PRESENT), *fits("a"), *wrong("b", "c"), SitesSeen(PRESENT), Resume())
    assert set(job.sites) == {"a"}
    assert play(job, SitesSeen(PRESENT)).unanswered == {"b", "c"}


def test_a_round_that_waits_for_sites_ends_with_the_pause() -> None:
    job = play(a_job(), PreparedModel(a_prepared()), Tick(), SitesSeen(PRESENT), *wrong("a", "b", "c"))
    step = jobs.advance(job, SitesSeen(PRESENT), 3.0)
    assert (step.job.status, step.job.round, step.job.abandoned_in_a_row) == (Status.PAUSED, None, 0)
    assert step.closed is not None
    assert (step.closed.phase, step.closed.reason) == (Phase.ABANDONED, "too few sites fit the job")


def test_a_round_in_flight_is_not_ended_by_a_site_that_comes_back_with_other_data() -> None:
    job = play(a_job(), PreparedModel(a_prepared()), SitesSeen(PRESENT), *fits("a", "b"), *wrong("c"), Tick())
    job = play(job, InRound(1, Candidates(("a", "b"))), SitesSeen({"a": 9.0, "b": 9.0}), *wrong("a", "b"))
    job = play(job, SitesSeen({"a": 9.0, "b": 9.0}))
    assert job.round is not None
    assert (job.status, job.round.phase) == (Status.RUNNING, Phase.CONFIGURATION)


def test_a_data_set_that_nobody_offers_is_said_while_that_matters() -> None:
    nobody = "nobody offers 'reviews'; offered are notes (2 agents); correct the name"
    job = play(a_job(), SitesSeen({}, nobody))
    assert explain(job, 0.0).reason.endswith(f"; {nobody}")
    waiting = explain(play(job, PreparedModel(a_prepared()), Tick()), 0.0)
    assert waiting.round is not None
    assert waiting.round.reason.endswith(f"; {nobody}")
    there = play(job, SitesSeen(PRESENT))
    assert "nobody" not in explain(there, 0.0).reason


def test_a_reason_names_the_first_sites_and_counts_the_others() -> None:
    present = {f"site-{number:03d}": 1.0 for number in range(MOST_NAMED + 5)}
    sites = {client: SiteCheck(1.0, 2.0, WRONG) for client in present}
    words = too_few_fit(sites, present, 2)
    assert "site-019: " in words
    assert "site-020: " not in words
    assert "; and 5 more." in words


def test_answers_are_in_the_stream_and_in_the_document() -> None:
    job = play(a_job(), SitesSeen(PRESENT), *fits("a"))
    step = jobs.advance(job, SiteChecked("b", WRONG, None, "policy.data"), 1.0)
    rows = changes(job, step.job, step.closed, step.reason)
    assert rows == [("site.check", {"client": "b", "fits": False, "problem": WRONG, "code": "policy.data"})]
    assert Job.from_json(step.job.to_json()) == step.job
    site_b = json.loads(step.job.to_json())["sites"]["b"]
    assert (site_b["problem"], site_b["code"]) == (WRONG, "policy.data")


@pytest.mark.parametrize("model_is_first", [True, False])
def test_conversations_do_not_fit_a_model_without_a_chat_template(model_is_first: bool) -> None:
    """Sites are asked while the model is read: the answer hangs on both, and on neither's haste."""
    talks = [SiteChecked(client, None, replace(FACTS, conversations=True)) for client in ("a", "b")]
    for has_one in (True, False):
        model = [PreparedModel(replace(a_prepared(), chat_template=has_one))]
        answers: list[JobEvent] = [*talks, *fits("c")]
        events = [*model, *answers] if model_is_first else [*answers, *model]
        job = play(a_job(), SitesSeen(PRESENT), *events, SitesSeen(PRESENT))
        assert job.status is (Status.RUNNING if has_one else Status.PAUSED)
        assert ("a: data: the site holds conversations, and the model has no chat template" in job.reason) != has_one
        assert "c: " not in job.reason


@pytest.mark.parametrize("model_is_first", [True, False])
def test_a_site_with_too_little_memory_does_not_fit(model_is_first: bool) -> None:
    """What a machine has comes with the answer, what a model needs with the model."""
    rooms = {
        "a": (2000, False, 40),
        "b": (9000, False, 40),
        "c": (0, False, 40),
        "d": (2000, True, 40),
        "e": (2000, True, 1),
    }
    present = dict.fromkeys(rooms, 1.0)
    answers: list[JobEvent] = [
        SiteChecked(client, None, replace(FACTS, memory_bytes=size, on_gpu=on_gpu, longest=longest))
        for client, (size, on_gpu, longest) in rooms.items()
    ]
    model = [PreparedModel(replace(a_prepared(), memory=SiteMemory(cpu=5000, gpu=1000, texts=TextMemory(10, 0))))]
    job = play(a_job(), SitesSeen(present), *([*model, *answers] if model_is_first else [*answers, *model]))
    assert {client for client, check in job.sites.items() if check.fits} == {"b", "c", "e"}  # c does not say
    assert (job.sites["a"].problem or "").startswith(
        "memory: the job needs about 6.6 kB here, and there are 2.0 kB; set local.weights: bfloat16"
    )
    assert (job.sites["d"].problem or "").startswith("memory: the job needs about 2.6 kB here, and there are 2.0 kB; ")
    assert Job.from_json(job.to_json()) == job
