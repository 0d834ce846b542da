"""What happens around the processes: Redis dies, files rot, disks fill, any process is killed at any time."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from benchmarks.kills.processes import children
from fedgalore.process.faults import Fault
from protos.codec import open_update
from tests.chaos.conftest import ROUNDS, ROW, SCHEDULE, VICTIM, Chaos, in_phase, pid_of

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

RANDOM_KILLS = 30


def update_of(chaos: Chaos, job_id: str, client: str) -> Path:
    """The file of a client's accepted update."""
    for path in (chaos.federation.root / "blobs" / "sha256").glob("??/*"):
        with path.open("rb") as file:
            head = file.read(4096)
        if job_id.encode() in head and f'"{client}"'.encode() in head:
            assert open_update(path).metadata["client"] == client
            return path
    raise AssertionError(f"no update of {client} in the blob store")


def test_a_damaged_update_is_sent_again(chaos: Chaos, tmp_path: Path, record_property: Any) -> None:
    """The update is damaged while the aggregator, which was about to read it, is down."""
    fired = tmp_path / "fired"
    chaos.doom_coordinator(f"{Fault.ATTEMPT_COUNTED}:2:{fired}")  # the first attempt prepares the model
    sections = {"rounds": SCHEDULE, "seed": 1}
    job_id = chaos.post_in_spite_of_death(key=str(tmp_path), **sections)
    chaos.wait(job_id, lambda job: fired.exists())
    path = update_of(chaos, job_id, VICTIM)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1  # a bit of a float: still a tensor file, still finite
    path.write_bytes(content)
    job, progress_s = chaos.finish(job_id, fired)
    same = chaos.different(job_id, tmp_path / "model", **sections) == []
    part = chaos.get(f"jobs/{job_id}/rounds/1")["participants"][VICTIM]
    record_property(ROW, ["an update damaged on disk", "", True, same, "the damaged one", f"{progress_s:.1f}"])
    assert (job["status"], job["model_version"]) == ("COMPLETED", ROUNDS), job["reason"]
    assert same
    assert part["up_bytes"] == 2 * part["update_bytes"]


@pytest.mark.parametrize("phase", ["CONFIGURATION", "REPORTING", "AGGREGATION"])
def test_redis_killed_and_started_from_its_file(chaos: Chaos, tmp_path: Path, phase: str, record_property: Any) -> None:
    sections = {"rounds": SCHEDULE, "seed": 10 + len(phase)}
    job_id = chaos.post_in_spite_of_death(key=str(tmp_path), **sections)
    with in_phase(chaos, job_id, phase):
        chaos.federation.redis.kill()
    time.sleep(1)
    started = time.monotonic()
    chaos.federation.redis.start()
    job, _ = chaos.finish(job_id)
    took = time.monotonic() - started
    same, again = chaos.different(job_id, tmp_path / "model", **sections) == [], chaos.sent_again(job_id)
    record_property(ROW, [f"Redis in {phase}", "", True, same, again, f"{took:.1f} to the job's end"])
    assert (job["status"], job["model_version"]) == ("COMPLETED", ROUNDS), job["reason"]
    assert same
    assert again == 0


def kill(chaos: Chaos, who: str) -> None:
    """Sends SIGKILL. Redis is started again here, the other processes later."""
    match who:
        case "redis":
            chaos.federation.redis.kill()
            chaos.federation.redis.start()
        case "aggregator":
            for pid in children(pid_of(chaos.federation.coordinator)):  # no aggregator, or a single one
                os.kill(pid, signal.SIGKILL)
        case "coordinator":
            chaos.federation.stop_coordinator(signal.SIGKILL)
        case _:
            chaos.federation.agents[who].stop(signal.SIGKILL)


@pytest.mark.parametrize("seed", range(RANDOM_KILLS))
def test_killed_at_any_time(chaos: Chaos, tmp_path: Path, seed: int, record_property: Any) -> None:
    chance = random.Random(seed)
    who = chance.choice(("coordinator", "aggregator", "redis", *chaos.federation.agents))
    after_s = chance.uniform(0.0, 6.0)
    sections: dict[str, Any] = {"rounds": SCHEDULE, "seed": 1000 + seed}
    job_id = chaos.post_in_spite_of_death(key=str(tmp_path), **sections)
    time.sleep(after_s)
    # On a fast machine the job is over by now; then a new job's process is killed sooner.
    while chaos.get(f"jobs/{job_id}")["status"] not in ("PENDING", "RUNNING"):
        after_s, sections = after_s / 2, {**sections, "seed": sections["seed"] + 100}
        job_id = chaos.post_in_spite_of_death(key=f"{tmp_path}/{sections['seed']}", **sections)
        time.sleep(after_s)
    kill(chaos, who)
    job, progress_s = chaos.finish(job_id)
    same, again = chaos.different(job_id, tmp_path / "model", **sections) == [], chaos.sent_again(job_id)
    took = "" if progress_s is None else f"{progress_s:.1f}"
    record_property(ROW, [f"{who} after {after_s:.2f} s", "", True, same, again, took])
    assert (job["status"], job["model_version"]) == ("COMPLETED", ROUNDS), job["reason"]
    assert same
    assert again == 0


def test_damaged_weights_are_never_trained_on(chaos: Chaos, tmp_path: Path, record_property: Any) -> None:
    """No client can send the weights again. At the latest when they are to be made whole, the job pauses and names the
    blob; a restored blob lets it go on."""
    fired = tmp_path / "fired"
    chaos.doom_coordinator(f"{Fault.ATTEMPT_COUNTED}:2:{fired}")
    sections = {"rounds": SCHEDULE, "seed": 2}
    job_id = chaos.post_in_spite_of_death(key=str(tmp_path), **sections)
    chaos.wait(job_id, lambda job: fired.exists())
    path = weights_of(chaos)
    sound = path.read_bytes()
    path.write_bytes(sound[:-5] + bytes([sound[-5] ^ 1]) + sound[-4:])
    held = chaos.wait(job_id, lambda job: job["status"] == "PAUSED")
    path.write_bytes(sound)
    assert httpx.post(chaos.url(f"jobs/{job_id}/resume")).status_code == 200
    job, _ = chaos.finish(job_id)
    same = chaos.different(job_id, tmp_path / "model", **sections) == []
    record_property(ROW, ["weights damaged on disk, restored", "", True, same, "", ""])
    assert f"blob {path.name}, which version 0 is made of, is missing or damaged; restore it" in held["reason"]
    assert (job["status"], job["model_version"]) == ("COMPLETED", ROUNDS), job["reason"]
    assert same


def weights_of(chaos: Chaos) -> Path:
    """The newest file of a version 0."""
    composed = (chaos.federation.root / "blobs" / "composed").glob("??/*")  # of what the base model lacks
    paths = [path for path in composed if b"fedgalore.weights.v1" in path.read_bytes()]
    return max(paths, key=lambda path: path.stat().st_mtime)
