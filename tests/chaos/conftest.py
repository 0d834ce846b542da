"""A federation whose processes die at chosen fault points, and a table of what each death cost."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from benchmarks.kills.processes import children
from fedgalore_cli.local import LaunchError, LocalFederation, Process
from tests.e2e.conftest import WAIT_S, Running, agents_of, different, ended
from tests.fedgalore.conftest import tiny_bert  # noqa: F401  # fixture
from tests.summary import tell

VICTIM = "south"
ROW = "chaos"
ROUNDS = 2
# A restarted process may take a minute on a busy machine, and an abandoned round trains again from its start.
SCHEDULE = {"count": ROUNDS, "deadline_s": 300}


class Chaos(Running):
    """A federation whose dead processes are started again."""

    def post_in_spite_of_death(self, key: str, **sections: Any) -> str:
        """Posts the job and, as a client does, repeats a request that got no answer."""
        end = time.monotonic() + WAIT_S
        while True:
            try:
                answer = httpx.post(
                    self.url("jobs"), json=self.document(**sections), headers={"Idempotency-Key": key}, timeout=10
                )
                assert answer.status_code in (200, 201), answer.text
                return str(answer.json()["id"])
            except httpx.TransportError:
                assert time.monotonic() < end
                self.keep_alive()

    def delete_another_job(self) -> None:
        """Asks a coordinator to delete a job of its own, and, as a client does, repeats what got no answer."""
        path, end = self.url(f"jobs/{self.post_in_spite_of_death(key='another')}"), time.monotonic() + WAIT_S
        while True:
            try:
                answer = httpx.delete(path, params={"cancel": True}, timeout=10)
            except httpx.TransportError:
                assert time.monotonic() < end
                self.keep_alive()
            else:
                assert answer.status_code == 404, answer.text  # it was gone before the answer was lost
                return

    def keep_alive(self) -> float | None:
        """Starts dead processes again, as a supervisor does.

        Returns the time of the last start in seconds of the monotonic clock; None if every process was alive.
        """
        started = None
        if not self.federation.coordinator.running:
            started = time.monotonic()
            environment = self.federation.coordinator.environment  # unchanged: a fault fires only once
            self.federation.start_coordinator(FEDGALORE_FAULT=environment.get("FEDGALORE_FAULT", ""))
        for agent in self.federation.agents.values():
            if not agent.running:
                started = time.monotonic()
                agent.start()
        return started

    def finish(self, job_id: str, fired: Path | None = None) -> tuple[Any, float | None]:
        """The ended job, and the seconds from the restart to the first change of the job afterwards.

        An aggregator is started again by its coordinator. So its seconds count from its death, which writes `fired`.
        """
        end = time.monotonic() + WAIT_S
        since, seen, progress_s, now = None, None, None, None
        while time.monotonic() < end:
            started = self.keep_alive()
            if started is None and since is None and fired is not None and fired.exists():
                started = time.monotonic()
            if started is not None:
                since, progress_s, seen = started, None, self.look(job_id)
            now = self.look(job_id)
            if since is not None and progress_s is None and now != seen:
                progress_s = time.monotonic() - since
            if now is not None and ended(now):
                return now, progress_s
            time.sleep(0.05)
        raise AssertionError(f"still {now['status']}: {now['reason']}" if now else "the coordinator does not answer")

    def look(self, job_id: str) -> Any:
        """The parts of the job that show progress; None when the coordinator does not answer."""
        try:
            job = self.get(f"jobs/{job_id}")
        except httpx.TransportError:
            return None
        progress = {name: job[name] for name in ("status", "model_version", "up_bytes")}
        if (flying := job["round"]) is not None:
            participants = flying["participants"].items()
            parts = {name: (each["stage"], each["step"], each["reported"]) for name, each in participants}
            progress["round"] = (flying["number"], flying["phase"], parts)
        return progress | {"reason": job["reason"] if ended(job) else ""}

    def different(self, job_id: str, folder: Path, **sections: Any) -> list[str]:
        """Names of the job's weights whose bits differ from those of an undisturbed simulation."""
        torch.set_num_threads(1)
        weights = self.downloaded(job_id, folder, AutoModelForSequenceClassification)
        return different(weights, self.simulated(**sections))

    def sent_again(self, job_id: str) -> int:
        """Bytes of accepted updates that arrived more than once."""
        rounds = [entry for entry in self.get(f"jobs/{job_id}/rounds")["rounds"] if entry["phase"] == "COMMITTED"]
        parts = [part for entry in rounds for part in entry["participants"].values() if part["update_bytes"]]
        assert len(parts) == len(self.federation.agents) * ROUNDS
        return sum(max(0, part["up_bytes"] - part["update_bytes"]) for part in parts)

    def doom_coordinator(self, fault: str) -> None:
        """Restarts the coordinator and its aggregator with a fault point at which one of them dies."""
        self.federation.stop_coordinator(signal.SIGKILL)
        try:
            self.federation.start_coordinator(FEDGALORE_FAULT=fault)
        except LaunchError:
            if self.federation.coordinator.running:
                raise

    def doom_agent(self, fault: str) -> None:
        """Restarts an agent with an empty work folder and a fault point at which it dies."""
        agent = self.federation.agents[VICTIM]
        agent.stop(signal.SIGKILL)
        shutil.rmtree(self.federation.root / "agents" / VICTIM / "work", ignore_errors=True)
        agent.environment = {**agent.environment, "FEDGALORE_AGENT_FAULT": fault}
        agent.start()


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory, tiny_bert: Path) -> Iterator[Chaos]:  # noqa: F811
    folder = tmp_path_factory.mktemp("chaos")
    with LocalFederation(folder / "run", agents_of(folder)) as federation:
        yield Chaos(federation, tiny_bert)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    head = ("fault point", "passing", "killed", "bits equal", "bytes of accepted updates sent again", "s to progress")
    tell(terminalreporter, ROW, "what each death cost", head)


def pid_of(process: Process) -> int:
    assert process.popen is not None
    return process.popen.pid


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)  # agents take their tasks within a few hundredths of a second


@contextmanager
def in_phase(chaos: Chaos, job_id: str, phase: str, *others: Process) -> Iterator[None]:
    """Waits until the job's round is in a phase.

    Aggregation would be over before the test sees it. So the aggregators are stopped before it begins: those of the
    federation's coordinator go on at the block's end, those of `others` stay stopped.
    """

    def reached(wanted: str) -> bool:
        flying = chaos.get(f"jobs/{job_id}")["round"]
        return flying is not None and bool(flying["phase"] == wanted)

    paused: list[int] = []
    if phase == "AGGREGATION":
        until(lambda: reached("REPORTING"))
        paused = children(pid_of(chaos.federation.coordinator))
        for pid in [*paused, *(pid for other in others for pid in children(pid_of(other)))]:
            os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: reached(phase))
        yield
    finally:
        for pid in paused:
            os.kill(pid, signal.SIGCONT)
