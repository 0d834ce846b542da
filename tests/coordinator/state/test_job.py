"""The job's transition table, the order of its rounds, and its JSON document."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coordinator.doors.grpc import messages
from coordinator.state import job as jobs
from coordinator.state.errors import DomainError, IllegalTransition, NotReady, RoundClosed
from coordinator.state.job_events import (
    AggregationFailed,
    Cancel,
    Describe,
    InRound,
    JobEvent,
    LoadedBack,
    Pause,
    PreparationFailed,
    PreparedModel,
    Resume,
    RollBack,
    SiteChecked,
    SitesSeen,
    WeightsLost,
    WeightsMade,
    WeightsWanted,
)
from coordinator.state.job_state import Job, Preparing, Ready, Status
from coordinator.state.job_words import explain
from coordinator.state.labels import Labels
from coordinator.state.records import RoundTask
from coordinator.state.round_state import (
    Abandon,
    Aggregated,
    Candidates,
    ClientFailed,
    Effect,
    Evaluated,
    Phase,
    Reported,
    RoundEvent,
    TaskTaken,
    Tick,
)
from coordinator.state.setbacks import TRIES_UNTIL_PAUSE, Setback, resting
from coordinator.state.stream_events import changes
from fedgalore.process.transitions import UndeclaredTransition, to
from tests.builders import a_blob, a_job, a_prepared, a_receipt, a_result, a_step_on, a_version, in_flight

PAIR = ("a", "b")


def play(job: Job, *events: JobEvent, now: float = 0.0) -> Job:
    for event in events:
        job = jobs.advance(job, event, now).job
    return job


def in_round(job: Job, *events: RoundEvent, now: float = 0.0) -> Job:
    for event in events:
        job = play(job, in_flight(job, event), now=now)
    return job


def running(**sections: Any) -> Job:
    return play(a_job(**sections), PreparedModel(a_prepared()))


def committed(job: Job, now: float = 0.0) -> Job:
    """The job after another committed round."""
    job = play(job, Tick(), now=now)
    job = in_round(job, Candidates(PAIR), *(Reported(name, a_receipt(name)) for name in PAIR), now=now)
    assert job.model is not None
    return in_round(job, Aggregated(a_version(job.model.version + 1), {"qr": 0.1}, {"joint_rank": 1.0}), now=now)


def abandoned(job: Job, reason: str = "broke") -> Job:
    return in_round(play(job, Tick(), now=job.next_try_at), Abandon(reason), now=job.next_try_at)


IN: dict[Status, Job] = {
    Status.PENDING: a_job(),
    Status.RUNNING: play(running(), Tick()),
    Status.PAUSED: play(running(), Tick(), Pause()),
    Status.COMPLETED: replace(running(), status=Status.COMPLETED),
    Status.FAILED: play(a_job(), PreparationFailed("no such folder")),
    Status.CANCELLED: play(a_job(), Cancel()),
}
EVENTS: dict[str, JobEvent] = {
    "PreparedModel": PreparedModel(a_prepared()),
    "PreparationFailed": PreparationFailed("no such folder"),
    "SitesSeen": SitesSeen({"a": 1.0}),
    "SiteChecked": SiteChecked("a", None, None),
    "Pause": Pause(),
    "Resume": Resume(),
    "Cancel": Cancel(),
    "RollBack": RollBack(a_version(0)),
    "Describe": Describe(("nightly",), "of all sites"),
    "InRound": InRound(1, Tick()),
    "AggregationFailed": AggregationFailed(1, "cut short"),
    "LoadedBack": LoadedBack(1),
    "WeightsWanted": WeightsWanted(0),
    "WeightsMade": WeightsMade(0, a_blob("whole")),
    "WeightsLost": WeightsLost(0, "blob 12 is damaged"),
    "Tick": Tick(),
}
OVER = {"InRound": RoundClosed, "AggregationFailed": RoundClosed}
WEIGHTS = ("WeightsWanted", "WeightsMade", "WeightsLost")
OUTCOMES: dict[Status, dict[str, Any]] = {
    Status.PENDING: {
        **OVER,
        "PreparedModel": Status.RUNNING,
        "PreparationFailed": Status.FAILED,
        "SitesSeen": Status.PENDING,
        "SiteChecked": Status.PENDING,
        "Cancel": Status.CANCELLED,
        "Tick": Status.PENDING,
    },
    Status.RUNNING: {
        "SitesSeen": Status.RUNNING,
        "RollBack": IllegalTransition,
        "SiteChecked": Status.RUNNING,
        "Pause": Status.PAUSED,
        "Resume": Status.RUNNING,
        "Cancel": Status.CANCELLED,
        "InRound": Status.RUNNING,
        "AggregationFailed": Status.RUNNING,
        "LoadedBack": IllegalTransition,  # rounds are to come
        **dict.fromkeys(WEIGHTS, Status.RUNNING),
        "Tick": Status.RUNNING,
    },
    Status.PAUSED: {
        "PreparedModel": IllegalTransition,  # it has a model
        "PreparationFailed": IllegalTransition,
        "SitesSeen": Status.PAUSED,
        "RollBack": IllegalTransition,
        "SiteChecked": Status.PAUSED,
        "Resume": Status.RUNNING,
        "Pause": Status.PAUSED,
        "Cancel": Status.CANCELLED,
        "InRound": Status.PAUSED,
        "AggregationFailed": Status.PAUSED,
        "LoadedBack": IllegalTransition,
        **dict.fromkeys(WEIGHTS, Status.PAUSED),
        "Tick": Status.PAUSED,
    },
    # its only version is current
    Status.COMPLETED: {**OVER, **dict.fromkeys(WEIGHTS, Status.COMPLETED), "RollBack": IllegalTransition},
    Status.FAILED: {**OVER, **dict.fromkeys(WEIGHTS, Status.FAILED), "RollBack": NotReady},  # it never had a model
    Status.CANCELLED: {**OVER, **dict.fromkeys(WEIGHTS, Status.CANCELLED), "Cancel": Status.CANCELLED},
}

for _status, _row in OUTCOMES.items():
    _row["Describe"] = _status


@pytest.mark.parametrize(("status", "name"), list(product(Status, EVENTS)))
def test_every_pair_of_status_and_event(status: Status, name: str) -> None:
    before, copy = IN[status], Job.from_json(IN[status].to_json())
    assert before.status is status
    expected = OUTCOMES[status].get(name, IllegalTransition)
    if isinstance(expected, Status):
        assert jobs.advance(before, EVENTS[name], 1.0).job.status is expected
    else:
        with pytest.raises(expected):
            jobs.advance(before, EVENTS[name], 1.0)
    assert before == copy


def test_the_table_holds_nothing_that_the_test_does_not_know() -> None:
    known = {(status, name) for status, row in OUTCOMES.items() for name in row}
    assert {(status, event.__name__) for status, event in jobs.TRANSITIONS} == known


def test_an_outcome_that_its_row_does_not_name_is_a_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    row = jobs.TRANSITIONS[Status.RUNNING, Pause]
    monkeypatch.setitem(jobs.TRANSITIONS, (Status.RUNNING, Pause), to(row.handler, Status.FAILED))
    with pytest.raises(UndeclaredTransition, match="Pause led from RUNNING to PAUSED, but its row leads to FAILED"):
        play(IN[Status.RUNNING], Pause())


@pytest.mark.slow
def test_every_status_that_a_row_names_is_reached() -> None:
    """Random events reach them from a few starting points; `advance` itself refuses every other status."""
    failing = running()
    for _ in range(TRIES_UNTIL_PAUSE - 1):
        failing = abandoned(failing)
    unfit = play(a_job(), SitesSeen({"a": 1.0}), SiteChecked("a", "no label", None), SitesSeen({"a": 1.0}))
    assert unfit.status is Status.PAUSED  # before it has a model
    over = replace(running(), model=a_step_on(a_version(0)), closing="version 1 is final")  # its weights are to be made
    starts = [a_job(), unfit, committed(running(rounds={"count": 1})), replace(failing, next_try_at=0.0), over]
    draw, reached = Random(0), set()
    for start in starts * 100:
        job, now = start, 0.0
        for _ in range(20):
            now += draw.choice([0, 0, 0, 5, 100])
            event = any_of(draw, max(1, job.rounds_opened), job.model.version if job.model else 0)
            with suppress(DomainError):
                after = jobs.advance(job, event, now).job
                reached.add((job.status, type(event), after.status))
                job = after
    named = {(*key, status) for key, row in jobs.TRANSITIONS.items() for status in row.leads_to}
    assert reached == {row for row in named if row[1] is not Describe}  # which leads from everywhere to the same


def any_of(draw: Random, number: int, version: int) -> JobEvent:
    of_the_round: list[RoundEvent] = [
        Candidates(PAIR),
        *(Reported(name, a_receipt(name)) for name in PAIR),
        *(Evaluated(name, a_result(version)) for name in PAIR),
        Aggregated(a_version(version + 1), {}, {}),
        Abandon("broke"),
    ]
    events = [InRound(number, each) for each in of_the_round]
    present = {"a": 1.0, "b": draw.choice([1.0, 2.0])}
    events += [SitesSeen(present), SiteChecked("a", "no label", None), SiteChecked("b", None, None)]
    made, lost = WeightsMade(version, a_blob("whole")), WeightsLost(version, "blob 12 is lost")
    events += [draw.choice([WeightsWanted(version), made, lost])]
    events += [RollBack(a_version(draw.choice([0, max(0, version - 1), version])))]
    events += [PreparedModel(a_prepared()), Tick(), Tick(), AggregationFailed(number, "cut short"), Pause(), Resume()]
    events += [LoadedBack(version), LoadedBack(version, "another model")]
    return draw.choice(events) if draw.random() < 0.98 else draw.choice([Cancel(), PreparationFailed("no such folder")])


@pytest.mark.parametrize(
    ("event", "status"),
    [(Pause(), Status.PAUSED), (Resume(), Status.RUNNING), (Cancel(), Status.CANCELLED)],
)
def test_asking_twice_is_asking_once(event: JobEvent, status: Status) -> None:
    """A person who saw no answer asks again, and so does the client library."""
    assert play(IN[status], event) is IN[status]


def test_what_is_not_said_of_a_job_stays_as_it_was() -> None:
    job = play(a_job(), Describe(("b", "a", "b"), "of all sites"))
    assert job.labels == Labels(("a", "b"), "of all sites")
    assert play(job, Describe(tags=())).labels == Labels((), "of all sites")
    assert play(job, Describe(description="")).labels == Labels(("a", "b"), "")
    assert play(job, Describe(("a", "b"))) is job


def test_who_paused_or_cancelled_a_job_is_said() -> None:
    assert play(running(), Pause(by="ada key-1")).reason.startswith("paused by ada key-1; resume it")
    assert play(running(), Cancel(by="ada key-1")).reason == "cancelled by ada key-1"


def test_pausing_what_does_not_run_yet_names_the_remedy() -> None:
    with pytest.raises(IllegalTransition, match="PENDING: it can be paused once it runs"):
        play(a_job(), Pause())
    with pytest.raises(IllegalTransition, match="FAILED: it has ended, and there is nothing to pause$"):
        play(IN[Status.FAILED], Pause())


def test_a_job_from_post_to_end() -> None:
    job = running()
    assert (job.status, job.round, job.rounds_opened) == (Status.RUNNING, None, 0)
    for version in (1, 2):
        job = committed(job, now=float(version))
        assert job.model == a_version(version)
        assert (job.round, job.rounds_opened, job.updated_at) == (None, version, version)
    job = play(job, Tick())
    assert job.round is not None
    assert (job.round.kind, job.round.number, job.round.model_version) == ("evaluate", 3, 2)
    job = in_round(job, Candidates(("a", "b", "c")))
    job = in_round(job, *(Evaluated(name, a_result(2)) for name in "ab"))
    step = jobs.advance(job, in_flight(job, Evaluated("c", a_result(2))), 9.0)
    assert step.closed is not None
    assert step.closed.phase is Phase.COMMITTED
    assert (step.job.status, Effect.WAKE_AGGREGATOR in step.effects) == (Status.RUNNING, True)
    assert play(step.job, Tick()) is step.job  # no other round, while its model is loaded back
    with pytest.raises(IllegalTransition, match="version 1 was loaded back, but job job-1 ends with version 2"):
        play(step.job, LoadedBack(1))
    job = play(step.job, LoadedBack(2))
    assert (job.status, job.model) == (Status.COMPLETED, a_version(2))


@pytest.mark.parametrize("pauses", [[], [Pause()]], ids=["running", "paused"])
def test_a_model_that_is_another_when_it_is_loaded_back_fails_the_job(pauses: list[JobEvent]) -> None:
    job = play(abandoned(committed(running(rounds={"count": 1}))), *pauses)
    assert "its download is being loaded back" in explain(job, 0.0).reason
    unchecked = play(job, LoadedBack(1, unchecked="nobody has looked at it"))
    assert unchecked.status is Status.COMPLETED
    assert unchecked.reason.endswith("; nobody has looked at it")
    job = play(job, LoadedBack(1, "version 1 is downloaded, and its logits differ by up to 3"))
    assert (job.status, job.model, job.closing) == (Status.FAILED, a_version(1), None)
    assert job.reason.startswith("version 1 is downloaded, and its logits differ by up to 3; version 1 is final; ")


def test_who_was_left_out_of_a_version_did_not_contribute_to_it() -> None:
    """So the client goes on from the state that it kept before."""
    job = play(committed(running(rounds={"count": 5})), Tick())
    job = in_round(job, Candidates(PAIR), *(Reported(name, a_receipt(name)) for name in PAIR))
    job = in_round(job, Aggregated(a_version(2), {}, {}, {"b": "far too long"}))
    assert job.contributions == {"a": 2, "b": 1}


def test_contributions_tell_the_last_version_that_a_clients_update_is_in() -> None:
    job = committed(running(rounds={"count": 5}))
    assert job.contributions == dict.fromkeys(PAIR, 1)
    job = abandoned(job)
    job = play(job, Tick(), now=job.next_try_at)
    job = in_round(job, Candidates(("a", "c")), Reported("a", a_receipt("a")), Reported("c", a_receipt("c")))
    assert job.contributions == dict.fromkeys(PAIR, 1)  # reported, but not aggregated yet
    job = in_round(job, Aggregated(a_version(2), {}, {}))
    assert job.contributions == {"a": 2, "b": 1, "c": 2}
    job = play(job, Tick())
    assert job.round is not None
    shown = {name: messages.task(RoundTask(job, job.round, 9.0), name).last_contribution for name in "abcd"}
    assert shown == {"a": 2, "b": 1, "c": 2, "d": 0}


def test_a_missed_evaluation_does_not_spoil_the_model() -> None:
    job = play(abandoned(committed(running(rounds={"count": 1}))), LoadedBack(1))
    assert (job.status, job.model) == (Status.COMPLETED, a_version(1))


@pytest.mark.parametrize(("every", "asked"), [(1, [True, True, True]), (2, [True, False, True]), (0, [False] * 3)])
def test_which_rounds_evaluate(every: int, asked: list[bool]) -> None:
    job, seen = running(rounds={"count": 3}, evaluation={"every": every}), []
    for _ in asked:
        opened = play(job, Tick()).round
        assert opened is not None
        seen.append(opened.evaluate)
        job = committed(job)
    assert seen == asked
    last = play(job, Tick()).round
    assert last is not None
    assert (last.kind, last.evaluate) == ("evaluate", True)


def test_an_abandoned_round_keeps_its_number_and_makes_no_version() -> None:
    job = committed(abandoned(running()), now=10.0)
    assert (job.rounds_opened, job.model, job.abandoned_in_a_row) == (2, a_version(1), 0)


def test_abandoned_rounds_in_a_row_pause_the_job_and_tell_why() -> None:
    job = committed(abandoned(abandoned(running(rounds={"count": 5}))), now=100.0)
    assert (job.status, job.reason) == (Status.RUNNING, "")  # a commit in between starts the count anew
    for number in range(TRIES_UNTIL_PAUSE):
        assert job.status is Status.RUNNING
        job = abandoned(job, f"cause {number}")
    assert job.status is Status.PAUSED
    assert job.reason == (
        "5 rounds in a row were abandoned, the last, round 8, because: cause 4. Mend the cause, restart the agent of a "
        "site whose data or settings you changed, and resume the job"
    )
    assert play(job, Tick(), now=1e6) is job
    job = play(job, Resume(), Tick())
    assert (job.status, job.abandoned_in_a_row) == (Status.RUNNING, 0)
    assert job.round is not None
    assert job.round.number == 9


def test_tries_are_spaced_in_time_and_the_reason_says_when_the_next_is() -> None:
    job, waits = running(), []
    for _ in range(TRIES_UNTIL_PAUSE - 1):
        before = job.next_try_at
        job = abandoned(job)
        waits.append(job.next_try_at - before)
        assert play(job, Tick(), now=job.next_try_at - 0.1) is job
        assert play(job, Tick(), now=job.next_try_at).round is not None
    assert waits == [5, 10, 20, 40]
    assert Job.from_json(job.to_json()) == job  # a restart waits on
    assert explain(job, 50.0).reason == "round 4 abandoned: broke; the next try is in 25 s"


def test_a_client_that_failed_is_drawn_last_until_it_reports() -> None:
    job = in_round(play(running(rounds={"count": 9}), Tick()), Candidates(PAIR))
    job = in_round(job, ClientFailed("a", "no memory"), Candidates(PAIR), now=20.0)
    assert (job.round, job.setbacks) == (None, {"a": Setback("no memory", 1, 40.0)})
    job = play(job, Tick(), now=25.0)
    for now, drawn in ((26.0, {"b", "c"}), (40.0, {"a", "b"})):
        at_rest = resting(job.setbacks, now)
        chosen = in_round(job, Candidates(("a", "b", "c"), resting=at_rest), now=now)
        assert chosen.round is not None
        assert set(chosen.round.participants) == drawn
    job = in_round(chosen, ClientFailed("a", "still none"), Candidates(PAIR[:1], busy=1), now=45.0)
    assert job.setbacks == {"a": Setback("still none", 2, 45.0 + 2 * 20.0)}
    job = in_round(play(job, Tick(), now=90.0), Candidates(PAIR), *(Reported(n, a_receipt(n)) for n in PAIR), now=90.0)
    assert in_round(job, Aggregated(a_version(1), {}, {}), now=91.0).setbacks == {}


def test_a_pause_names_each_client_once() -> None:
    job = running()
    for number in range(TRIES_UNTIL_PAUSE):
        now = job.next_try_at
        present = ("a", "c") if number == 1 else ("a", "b")
        job = in_round(play(job, Tick(), now=now), Candidates(present), now=now)
        job = in_round(job, ClientFailed(present[1], f"{present[1]} is full"), Candidates(present), now=now)
    assert job.status is Status.PAUSED
    assert job.reason.count("b is full") == job.reason.count("c is full") == 1


def test_a_client_that_lets_the_deadline_pass_has_failed_and_one_that_the_goal_overtook_has_not() -> None:
    late = in_round(play(running(), Tick()), Candidates(PAIR), Reported("a", a_receipt("a")))
    late = play(late, Tick(), now=60.0)
    assert set(late.setbacks) == {"b"}
    assert "b: no report" in late.reason
    job = play(running(rounds={"over_selection": 2.0}), Tick())
    job = in_round(job, Candidates((*PAIR, "c", "d")), *(Reported(name, a_receipt(name)) for name in PAIR))
    assert in_round(job, Aggregated(a_version(1), {}, {}), now=99.0).setbacks == {}


def test_a_failed_aggregation_counts_as_abandoned() -> None:
    job = play(running(), Tick())
    job = in_round(job, Candidates(PAIR), *(Reported(name, a_receipt(name)) for name in PAIR))
    step = jobs.advance(job, AggregationFailed(1, "cut short"), 3.0)
    assert step.closed is not None
    assert (step.closed.phase, step.closed.reason) == (Phase.ABANDONED, "aggregation failed: cut short")
    assert (step.job.abandoned_in_a_row, step.job.round) == (1, None)


def test_a_pause_lets_the_round_in_flight_end() -> None:
    job = in_round(play(running(), Tick()), Candidates(PAIR))
    job = play(job, Pause())
    job = in_round(job, *(Reported(name, a_receipt(name)) for name in PAIR))
    job = in_round(job, Aggregated(a_version(1), {}, {}))
    assert (job.status, job.model, job.round) == (Status.PAUSED, a_version(1), None)
    assert "paused by the operator" in job.reason
    assert play(job, Tick()) is job


def test_cancel_abandons_the_round_in_flight() -> None:
    job = in_round(play(running(), Tick()), Candidates(PAIR))
    step = jobs.advance(job, Cancel(), 5.0)
    assert (step.job.status, step.job.round) == (Status.CANCELLED, None)
    assert step.closed is not None
    assert (step.closed.phase, step.closed.reason) == (Phase.ABANDONED, "the job was cancelled")


def test_an_event_for_another_round_is_late() -> None:
    job = committed(running())
    for number in (1, 2, 9):
        with pytest.raises(RoundClosed, match=f"round {number} of job job-1"):
            play(job, InRound(number, TaskTaken("a")))


def test_reasons_are_given_for_the_current_time() -> None:
    job = in_round(play(running(), Tick()), Candidates(PAIR), TaskTaken("a"), Reported("b", a_receipt()))
    shown = explain(job, 19.0)
    assert shown.reason == "round 1: waiting: 1 of 2 reports, 41 s left"
    assert shown.round is not None
    assert shown.round.reason == "waiting: 1 of 2 reports, 41 s left"
    assert explain(play(job, Pause()), 20.0).reason.startswith("paused by the operator")


def test_a_job_survives_json() -> None:
    job = in_round(play(committed(running()), Tick()), Candidates(PAIR), Reported("a", a_receipt()))
    assert Job.from_json(job.to_json()) == job


def test_a_jobs_document_keeps_its_shape() -> None:
    """Jobs that an earlier release stored stay readable."""
    job = in_round(play(committed(running()), Tick()), Candidates(PAIR), Reported("a", a_receipt()))
    document = json.loads(job.to_json())
    assert set(document) == {
        *("id", "spec", "status", "reason", "created_at", "updated_at", "prepared", "model", "round"),
        *("earlier", "whole", "wishes"),
        *("rounds_opened", "abandoned_in_a_row", "next_try_at", "setbacks", "contributions"),
        *(
            "closing",
            "best",
            "best_model",
            "rollbacks",
            "was_completed",
            "sites",
            "missing",
            "idempotency_key",
            "secret",
            "posted_by",
            "team",
            "labels",
            "format",
        ),
    }
    assert set(document["prepared"]) == {"plan", "base_model", "export", "model", "chat_template", "notes", "memory"}
    parts = {"chain", "weights", "aggregate", "state", "residue"}
    assert set(document["model"]) == {"version", "held_out", "held_out_failure"} | parts
    assert set(document["round"]) == {
        *("number", "kind", "model_version", "phase", "reason", "opened_at", "evaluate", "deadline_at", "phase_at"),
        *("tries", "seats", "participants", "result", "timings", "statistics", "alignment"),
    }


def test_a_job_is_ready_once_it_has_a_model() -> None:
    pending = a_job()
    assert pending.stage == Preparing()
    with pytest.raises(NotReady, match="FAILED: it has no model; post a mended copy .*clone job-1 --from-base"):
        IN[Status.FAILED].ready()
    with pytest.raises(NotReady, match="job job-1 is PENDING: it has no model yet; ask again once it runs"):
        pending.ready()
    job = committed(running())
    assert job.stage == job.ready() == Ready(a_prepared(), a_version(1))


def test_a_job_whose_spec_is_of_another_version_is_unreadable() -> None:
    document = json.loads(running().to_json())
    document["spec"]["rounds"]["unheard_of"] = 1
    with pytest.raises(ValueError, match="unheard_of"):
        Job.from_json(json.dumps(document))


def test_the_stream_tells_each_thing_once_and_in_order() -> None:
    job, shown = a_job(), []
    shown += changes(None, job, None, job.reason)
    script: list[JobEvent] = [PreparedModel(a_prepared()), Tick(), InRound(1, Candidates(PAIR))]
    script += [InRound(1, TaskTaken("a")), InRound(1, TaskTaken("a"))]
    script += [InRound(1, Evaluated("a", a_result())), InRound(1, Reported("a", a_receipt()))]
    script += [InRound(1, Reported("b", a_receipt())), InRound(1, Aggregated(a_version(1), {"qr": 0.1}, {}))]
    for event in script:
        step = jobs.advance(job, event, 1.0)
        shown += changes(job, step.job, step.closed, step.reason)
        job = step.job
    summary = [(kind, data.get("phase") or data.get("client") or data.get("status")) for kind, data in shown]
    assert summary == [
        ("job.status", "PENDING"),
        ("job.status", "RUNNING"),
        ("round.phase", "SELECTION"),
        ("round.phase", "CONFIGURATION"),
        ("client.task", "a"),
        ("client.evaluation", "a"),
        ("client.report", "a"),
        ("round.phase", "REPORTING"),
        ("client.task", "b"),
        ("client.report", "b"),
        ("round.phase", "AGGREGATION"),
        ("round.phase", "COMMITTED"),
    ]
    assert shown[-1][1]["model_version"] == 1
    assert json.loads(json.dumps([data for _, data in shown]))


numbers = st.integers(1, 5)
names = st.sampled_from("abc")
round_event = st.one_of(
    st.lists(names, unique=True, min_size=2).map(lambda present: Candidates(tuple(present))),
    st.builds(TaskTaken, names),
    st.builds(lambda name: Reported(name, a_receipt(name)), names),
    st.builds(lambda name, version: Evaluated(name, a_result(version)), names, st.integers(0, 4)),
    st.builds(lambda version: Aggregated(a_version(version), {}, {}), st.integers(1, 4)),
    st.just(Abandon("broke")),
)
# Most of these events move a job on, so that sequences reach its end.
any_event = st.one_of(
    st.just(Tick()),
    st.builds(InRound, numbers, round_event),
    st.builds(InRound, numbers, round_event),
    st.sampled_from(
        [PreparedModel(a_prepared()), Pause(), Resume(), Cancel(), AggregationFailed(1, "x"), PreparationFailed("x")]
        + [SitesSeen({"a": 1.0}), SiteChecked("a", "no label", None), SiteChecked("a", None, None)]
        + [RollBack(a_version(0)), RollBack(a_version(1))]
    ),
)


@settings(max_examples=150, deadline=None)
@given(steps=st.lists(st.tuples(any_event, st.floats(0, 20)), max_size=50))
def test_no_sequence_of_events_breaks_a_job(steps: list[tuple[JobEvent, float]]) -> None:
    job, now, closed = running(), 0.0, []
    for event, pause in steps:
        now += pause
        before, copy = job, job.to_json()
        try:
            step = jobs.advance(before, event, now)
        except DomainError:
            assert before.to_json() == copy
            continue
        job = step.job
        if step.closed:
            closed.append(step.closed)
        assert [each.number for each in closed] == list(range(1, len(closed) + 1))
        assert job.rounds_opened == len(closed) + (job.round is not None)
        assert job.round is None or not job.round.phase.is_final
        trained = sum(each.kind == "train" and each.phase is Phase.COMMITTED for each in closed)
        assert job.model is not None
        assert job.model.version == trained + len(job.rollbacks)  # no number is used twice
        assert job.rounds_behind(job.model.version) <= min(trained, job.parsed.rounds.count)
        assert not before.status.is_final or job is before or isinstance(event, RollBack)
        assert job is before or job.updated_at == now
        assert step.reason
        if before.status is Status.PAUSED and job.status is Status.PAUSED:
            assert job.rounds_opened == before.rounds_opened
        assert Job.from_json(job.to_json()) == job
