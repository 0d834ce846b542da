"""The stream of events of a job, row by row: the name and the exact data of each row."""

from __future__ import annotations

from typing import Any

import pytest

from coordinator.state import job as jobs
from coordinator.state.job_events import (
    Describe,
    InRound,
    LoadedBack,
    Pause,
    PreparedModel,
    SiteChecked,
    SitesSeen,
)
from coordinator.state.job_state import Job
from coordinator.state.round_state import (
    Abandon,
    Aggregated,
    Candidates,
    ClientFailed,
    Evaluated,
    Reported,
    TaskTaken,
    Tick,
    UpdateLost,
)
from coordinator.state.sites import SiteFacts
from coordinator.state.stream_events import changes
from tests.builders import a_job, a_prepared, a_receipt, a_result, a_version

Rows = list[tuple[str, dict[str, Any]]]
TRIO = ("a", "b", "c")


def step(job: Job, event: Any, now: float) -> tuple[Job, Rows]:
    done = jobs.advance(job, event, now)
    return done.job, changes(job, done.job, done.closed, done.reason)


def after(job: Job, *events: Any, now: float = 1.0) -> Job:
    for event in events:
        job, _ = step(job, event, now)
    return job


def in_round(number: int, *events: Any) -> list[InRound]:
    return [InRound(number, event) for event in events]


def started(count: int = 2) -> Job:
    """A job of `count` rounds in round 1, whose three participants have sent nothing yet."""
    job = a_job(rounds={"count": count, "goal_clients": 3, "over_selection": 1})
    return after(job, PreparedModel(a_prepared()), Tick(), *in_round(1, Candidates(TRIO)))


def aggregating(count: int = 2) -> Job:
    return after(started(count), *in_round(1, *(Reported(name, a_receipt(name)) for name in TRIO)))


def test_the_creation_is_the_first_row() -> None:
    job = a_job()
    assert changes(None, job, None, job.reason) == [("job.status", {"status": "PENDING", "reason": job.reason})]


def test_a_status_comes_with_its_reason_and_only_when_it_changes() -> None:
    job = after(a_job(), PreparedModel(a_prepared()))
    paused, rows = step(job, Pause(), 2.0)
    assert rows == [("job.status", {"status": "PAUSED", "reason": paused.reason, "was": "RUNNING"})]
    assert step(paused, Pause(), 3.0)[1] == []


def test_a_phase_comes_with_round_kind_time_and_reason() -> None:
    job, rows = step(after(a_job(), PreparedModel(a_prepared())), Tick(), 2.0)
    assert job.round is not None
    head = {"round": 1, "kind": "train"}
    assert rows == [("round.phase", {**head, "phase": "SELECTION", "at": 2.0, "reason": job.round.reason})]
    job, rows = step(job, InRound(1, Candidates(TRIO)), 3.0)
    assert job.round is not None
    assert rows == [("round.phase", {**head, "phase": "CONFIGURATION", "at": 3.0, "reason": job.round.reason})]


def test_a_task_and_a_report_of_a_client() -> None:
    job, rows = step(started(), InRound(1, TaskTaken("b")), 4.0)
    assert rows == [("client.task", {"round": 1, "client": "b"})]
    receipt = a_receipt("an update", examples=12)
    _, rows = step(job, InRound(1, Reported("b", receipt)), 5.0)
    expected = {"round": 1, "client": "b", "num_examples": 12, "size_bytes": 9, "metrics": {"train_loss": 0.5}}
    assert rows[0] == ("client.report", expected)
    assert rows[1][1]["phase"] == "REPORTING"


def test_an_evaluation_of_a_client_comes_once() -> None:
    job, rows = step(after(started(), *in_round(1, TaskTaken("a"))), InRound(1, Evaluated("a", a_result())), 4.0)
    metrics = {"loss": 0.7, "accuracy": 0.5}
    expected = {"round": 1, "client": "a", "model_version": 0, "examples": 20, "metrics": metrics}
    assert rows == [("client.evaluation", expected)]
    _, rows = step(job, InRound(1, Reported("a", a_receipt("a"))), 5.0)
    assert [kind for kind, _ in rows] == ["client.report", "round.phase"]


def test_a_failure_of_a_client_comes_once() -> None:
    failed = InRound(1, ClientFailed("a", "no memory", "policy.scale"))
    job, rows = step(after(started(), *in_round(1, TaskTaken("a"))), failed, 4.0)
    told = {"round": 1, "client": "a", "reason": "no memory", "code": "policy.scale"}
    assert rows == [("client.failure", told)]
    assert step(job, InRound(1, ClientFailed("a", "no memory")), 5.0)[1] == []
    assert step(job, InRound(1, TaskTaken("b")), 5.0)[1] == [("client.task", {"round": 1, "client": "b"})]


def test_a_lost_update_comes_once_and_its_replacement_is_a_report() -> None:
    job, rows = step(aggregating(), InRound(1, UpdateLost("b", a_receipt("b").blob, "damaged")), 4.0)
    assert rows == [("client.lost", {"round": 1, "client": "b", "reason": "damaged"})]
    job, rows = step(job, InRound(1, TaskTaken("b")), 5.0)
    assert rows == [("client.task", {"round": 1, "client": "b"})]
    _, rows = step(job, InRound(1, Reported("b", a_receipt("again"))), 6.0)
    assert [kind for kind, _ in rows] == ["client.report", "round.phase"]


def test_the_commit_of_a_round_says_what_came_of_it() -> None:
    result = Aggregated(a_version(1), {"qr_s": 0.5}, {"joint_rank": 2.0}, {"c": "far too long"})
    _, rows = step(aggregating(), InRound(1, result), 7.0)
    assert rows == [
        ("client.dropped", {"round": 1, "client": "c", "reason": "far too long"}),
        (
            "round.phase",
            {
                "round": 1,
                "kind": "train",
                "phase": "COMMITTED",
                "at": 7.0,
                "reason": "version 1 from 2 updates; left out: c",
                "model_version": 1,
                "timings": {"qr_s": 0.5},
                "statistics": {"joint_rank": 2.0},
            },
        ),
    ]


def test_an_evaluation_round_commits_the_version_that_it_evaluated() -> None:
    job = after(aggregating(count=1), *in_round(1, Aggregated(a_version(1), {}, {})), Tick())
    job = after(job, *in_round(2, Candidates(("a",))), now=20.0)
    job, rows = step(job, InRound(2, Evaluated("a", a_result(1))), 21.0)
    names = [kind for kind, _ in rows]
    assert names == ["client.task", "client.evaluation", "round.phase", "round.phase"]
    passed, committed = rows[2][1], rows[3][1]
    assert passed == {"round": 2, "kind": "evaluate", "phase": "REPORTING", "at": 21.0}
    assert committed["model_version"] == 1
    job, rows = step(job, LoadedBack(1), 22.0)
    assert rows == [("job.status", {"status": "COMPLETED", "reason": job.reason, "was": "RUNNING"})]


@pytest.mark.parametrize(
    ("events", "now", "late"),
    [
        ([Reported("a", a_receipt()), Reported("b", a_receipt()), Tick()], 1e6, {"c": "the deadline passed"}),
        ([ClientFailed("a", "broke"), Reported("b", a_receipt()), Tick()], 1e6, {"c": "the deadline passed"}),
        ([ClientFailed("a", "broke"), Abandon("the job was cancelled")], 2.0, {}),
    ],
    ids=["committed without it", "abandoned at the deadline", "abandoned for another reason"],
)
def test_who_is_late_is_told_once_with_the_end_of_the_reporting(events: list[Any], now: float, late: Any) -> None:
    *first, last = in_round(1, *events)
    job, rows = step(after(started(), *first), last, now)
    assert {data["client"]: data["reason"] for kind, data in rows if kind == "client.late"} == late
    assert job.round is None or job.round.phase == "AGGREGATION"


def test_those_that_were_chosen_beyond_the_goal_are_late_when_it_is_reached() -> None:
    job = a_job(rounds={"count": 2, "goal_clients": 2, "over_selection": 1.5})
    job = after(job, PreparedModel(a_prepared()), Tick(), *in_round(1, Candidates(TRIO), Reported("a", a_receipt())))
    _, rows = step(job, InRound(1, Reported("c", a_receipt("c"))), 5.0)
    told = ("client.late", {"round": 1, "client": "b", "reason": "enough others had reported"})
    assert [row for row in rows if row[0] == "client.late"] == [told]


def test_an_answer_of_a_site_comes_once() -> None:
    facts = SiteFacts(20, 5, 2, 100, memory_bytes=2**40)
    asked = after(a_job(), SitesSeen({"a": 1.0}))
    job, rows = step(asked, SiteChecked("a", None, facts), 2.0)
    assert rows == [("site.check", {"client": "a", "fits": True, "problem": None, "code": None})]
    _, rows = step(job, PreparedModel(a_prepared()), 3.0)  # looks at its memory again
    assert [kind for kind, _ in rows] == ["job.status"]


def test_labels_and_who_wrote_them() -> None:
    job = jobs.advance(a_job(), Describe(("a",), by="ada key-1"), 2.0).job
    assert changes(a_job(), job, None, job.reason, "ada key-1") == [
        ("job.labels", {"tags": ["a"], "description": "", "by": "ada key-1"})
    ]


def test_the_end_of_a_round_comes_before_the_beginning_of_the_next() -> None:
    before = started()
    closed = jobs.advance(before, InRound(1, Abandon("broke")), 8.0)
    opened = jobs.advance(closed.job, Tick(), 13.0)
    rows = changes(before, opened.job, closed.closed, opened.reason)  # as if a single step had caused both
    assert [(data["round"], data["phase"]) for _, data in rows] == [(1, "ABANDONED"), (2, "SELECTION")]


def test_rows_of_several_steps_are_reported_together() -> None:
    """A reader compares the last state that it saw with the current state."""
    job = after(started(), *in_round(1, TaskTaken("a"), ClientFailed("b", "broke")))
    expected = [
        ("client.task", {"round": 1, "client": "a"}),
        ("client.failure", {"round": 1, "client": "b", "reason": "broke", "code": None}),
    ]
    opened = after(a_job(), PreparedModel(a_prepared()), Tick())  # its first round has no participants yet
    for before in (None, opened):
        rows = changes(before, job, None, job.reason)
        assert [row for row in rows if row[0].startswith("client.")] == expected


def test_who_is_late_is_told_once_where_the_round_waits_again_for_a_lost_update() -> None:
    job = a_job(rounds={"count": 2, "goal_clients": 2, "over_selection": 1.5})
    job = after(job, PreparedModel(a_prepared()), Tick(), *in_round(1, Candidates(TRIO), Reported("a", a_receipt())))
    job = after(job, InRound(1, Reported("c", a_receipt("c"))), InRound(1, UpdateLost("c", a_receipt("c").blob, "bad")))
    _, rows = step(job, InRound(1, Reported("c", a_receipt("again"))), 6.0)
    assert [kind for kind, _ in rows] == ["client.task", "client.report", "round.phase"]  # b has been told late
