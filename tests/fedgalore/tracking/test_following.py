"""A job of a real coordinator, followed from any moment on: each round once, with the values that REST shows."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from coordinator.state.job_events import LoadedBack
from fedgalore.client import Client, Job
from fedgalore.tracking import End, Run, Step, TrackerError, track
from fedgalore.tracking.sink import Sink
from tests.coordinator.doors.rest.stack import Stack
from tests.fedgalore.tracking.test_feeding import Kept


class Noted(Kept):
    """Keeps what it is told, and goes on where it is."""

    def __init__(self, failures: int = 0) -> None:
        super().__init__(failures=failures)
        self.steps: dict[int, Step] = {}
        self.logged = threading.Semaphore(0)

    def open(self, run: Run) -> int:
        self.run = run
        return max(self.rounds, default=0)

    def log(self, step: Step) -> None:
        super().log(step)
        self.steps[step.number] = step
        self.logged.release()

    def end(self, end: End) -> None:
        super().end(end)
        self.facts = end.facts


def following(stack: Stack, job_id: str, sinks: Sequence[Sink], **options: Any) -> asyncio.Task[Job]:
    def run() -> Job:
        with Client(str(stack.http.base_url)) as client:
            return track(client, job_id, sinks, **options)

    return asyncio.create_task(asyncio.to_thread(run))


@pytest.mark.slow
async def test_a_job_is_followed_live_and_by_who_comes_late(stack: Stack, tmp_path: Path) -> None:
    live, late = Noted(), Noted()
    job = await stack.running(tmp_path, rounds={"count": 2})
    task = following(stack, job.id, [live])
    await stack.trained(job, tmp_path, 1)
    assert await asyncio.to_thread(live.logged.acquire, timeout=60)
    await stack.trained(job, tmp_path, 2)
    await stack.evaluated(job, await stack.next_tasks("evaluate"), 2)
    await stack.engine.aggregator.loaded_back(job.id, LoadedBack(2))
    assert (await task).status == "COMPLETED"

    assert live.rounds == [1, 2, 3]
    assert (live.run.id, live.run.params["rounds.count"]) == (job.id, 2)
    assert live.ended == ["COMPLETED"]
    assert live.facts["model_version"] == 2
    first, last = live.steps[1].values, live.steps[3].values
    assert first["evaluation_by_client/accuracy/a"] == 0.9
    assert first["evaluation_by_client/loss/a"] == 0.25
    assert (first["traffic/up_bytes"], first["server/rank"], first["server/compute_s"]) == (200, 2.0, 0.1)
    assert (last["traffic/up_bytes_so_far"], last["round/model_version"]) == (400, 2)
    assert first["round/reports"] == 2 and first["round/seconds"] > 0

    await following(stack, job.id, [late, live])
    assert {number: step.values for number, step in late.steps.items()} == {
        number: step.values for number, step in live.steps.items()
    }
    assert [step.at for step in late.steps.values()] == [step.at for step in live.steps.values()]
    assert live.rounds == [1, 2, 3]


@pytest.mark.slow
async def test_what_a_tracker_lacks_at_the_end_is_said(stack: Stack, tmp_path: Path) -> None:
    tracker = Noted(failures=10**6)
    job = await stack.completed(tmp_path)
    with pytest.raises(TrackerError, match="Kept has not taken everything"):
        await following(stack, job.id, [tracker], patience_s=0.1)
    assert tracker.rounds == []
    tracker.failures = 0  # its thread ends


@pytest.mark.slow
async def test_a_best_model_of_a_job_that_keeps_none_is_refused_before_anything_is_logged(
    stack: Stack, tmp_path: Path
) -> None:
    tracker, job = Noted(), await stack.running(tmp_path)
    with pytest.raises(
        TrackerError, match=rf"model: job {job.id} keeps no best version \(evaluation.keep\); take last"
    ):
        await following(stack, job.id, [tracker], model="best")
    assert tracker.rounds == []
