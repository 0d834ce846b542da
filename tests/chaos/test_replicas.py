"""Two coordinators on one Redis and one blob store: one drives, the other takes over."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from benchmarks.kills.processes import children
from coordinator.engine.lease import AGGREGATOR, DRIVER
from fedgalore_cli.local import LEASE_S, Process
from tests.chaos.conftest import ROUNDS, ROW, SCHEDULE, Chaos, in_phase, pid_of, until

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

TAKEN_OVER_S = LEASE_S + 8  # and the delay of a busy machine


def holder(chaos: Chaos, lease: str = DRIVER) -> int | None:
    """Process id of the coordinator or aggregator that holds the lease."""
    with Redis.from_url(chaos.federation.redis.url, decode_responses=True) as redis:
        identity = redis.hget(f"fedgalore:lease:{lease}", "holder")
    return int(str(identity).split("/")[1]) if identity else None


def written(chaos: Chaos, job_id: str) -> Any:
    """Everything that Redis stores about a job."""
    with Redis.from_url(chaos.federation.redis.url) as redis:
        return {key: redis.dump(key) for key in sorted(redis.keys(f"fedgalore:job:{job_id}*"))}


@contextmanager
def a_leader(chaos: Chaos, folder: Path) -> Iterator[Process]:
    """A second coordinator, which drives and aggregates; agents and the test talk to the first coordinator."""
    federation, ports = chaos.federation, folder / "ports.json"
    environment = {**federation.coordinator.environment, "FEDGALORE_REST_PORT": "0", "FEDGALORE_GRPC_PORT": "0"}
    environment["FEDGALORE_PORT_FILE"] = str(ports)
    second = Process("second", [sys.executable, "-m", "coordinator"], folder / "second.log", environment)
    second.start()
    try:
        until(ports.exists)
        federation.stop_coordinator()
        until(lambda: holder(chaos) == pid_of(second))
        federation.start_coordinator()
        until(lambda: holder(chaos, AGGREGATOR) in children(pid_of(second)))
        yield second
    finally:
        os.kill(pid_of(second), signal.SIGCONT)  # the process id is valid until it is waited for, even after a SIGKILL
        second.stop(signal.SIGKILL)


def stop_whole(process: Process, sign: signal.Signals) -> None:
    """Sends a signal to a coordinator and its aggregator."""
    for pid in (*children(pid_of(process)), pid_of(process)):
        os.kill(pid, sign)


@pytest.mark.parametrize("phase", ["SELECTION", "REPORTING", "AGGREGATION"])
@pytest.mark.parametrize("sign", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "paused"])
def test_another_replica_takes_over(
    chaos: Chaos, tmp_path: Path, sign: signal.Signals, phase: str, record_property: Any
) -> None:
    sections = {"rounds": SCHEDULE, "seed": 5000 + 10 * len(phase) + sign}
    with a_leader(chaos, tmp_path) as leader:
        job_id = chaos.post_in_spite_of_death(key=str(tmp_path), **sections)
        # A round begins its selection as soon as the job exists.
        reached = nullcontext() if phase == "SELECTION" else in_phase(chaos, job_id, phase, leader)
        with reached:
            stop_whole(leader, sign)
        stopped = time.monotonic()
        until(lambda: holder(chaos) == pid_of(chaos.federation.coordinator))
        took_s = time.monotonic() - stopped
        job, _ = chaos.finish(job_id)
        time.sleep(1.0)  # what agents' last calls moved is counted together
        before = written(chaos, job_id)
        if sign is signal.SIGSTOP:
            stop_whole(leader, signal.SIGCONT)
            time.sleep(2 * LEASE_S)  # it wakes, and sees that it lost the lease
            assert leader.running
        unwritten = written(chaos, job_id) == before  # a download makes weights, which the job then names
        same, again = chaos.different(job_id, tmp_path / "model", **sections) == [], chaos.sent_again(job_id)
        how = "killed" if sign is signal.SIGKILL else "paused, woken"
        record_property(ROW, [f"leader {how} in {phase}", "", True, same, again, f"{took_s:.1f} to the new leader"])
        assert (job["status"], job["model_version"]) == ("COMPLETED", ROUNDS), job["reason"]
        assert unwritten
        assert took_s < TAKEN_OVER_S
        assert same
        assert again == 0
