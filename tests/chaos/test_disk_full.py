"""The coordinator's disk fills up under an upload or a commit; when there is room again, the job goes on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from client_agent.window import FIRST_BYTES
from fedgalore.process.faults import Fault
from fedgalore_cli.local import LocalFederation
from tests.chaos.conftest import ROUNDS, ROW, SCHEDULE, VICTIM, Chaos, pid_of
from tests.e2e.conftest import agents_of
from tests.fedgalore.conftest import tiny_bert  # noqa: F401  # fixture

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

DISK = "16m"
MOUNT = 'mkdir -p "$0" && mount -t tmpfs -o size={size} tmpfs "$0" && exec "$@"'


def private_disk(folder: Path) -> list[str]:
    """A wrapper that gives a command a small disk at `folder`, which no other process sees."""
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", MOUNT.format(size=DISK), str(folder)]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("a private disk is impossible here: unshare is not allowed")
    return command


@pytest.fixture
def small(tmp_path: Path, tiny_bert: Path) -> Iterator[Chaos]:  # noqa: F811
    agents = agents_of(tmp_path)
    with LocalFederation(tmp_path / "run", agents, wrapper=private_disk(tmp_path / "run" / "blobs")) as federation:
        yield Chaos(federation, tiny_bert)


@contextmanager
def full(chaos: Chaos) -> Iterator[None]:
    """Fills the coordinator's disk, which is reached through its process, until the block's end."""
    blobs = chaos.federation.root / "blobs"
    ballast = Path(f"/proc/{pid_of(chaos.federation.coordinator)}/root{blobs}/ballast")
    try:
        _fill(ballast)
        yield
    finally:
        ballast.unlink()


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(b"\0" * 4096)


@pytest.mark.parametrize("during", ["an upload", "a commit"])
def test_a_full_disk_costs_nothing_but_time(small: Chaos, tmp_path: Path, during: str, record_property: Any) -> None:
    sections = {"rounds": SCHEDULE, "seed": len(during)}
    fired = tmp_path / "fired"
    if during == "a commit":  # the aggregator dies before it begins; the next aggregator sees a full disk
        small.federation.stop_coordinator()
        small.federation.start_coordinator(FEDGALORE_FAULT=f"{Fault.ATTEMPT_COUNTED}:2:{fired}")
    job_id = small.post_in_spite_of_death(key="full-disk", **sections)
    with ExitStack() as standing_still:
        if during == "a commit":
            small.wait(job_id, lambda job: fired.exists())
        else:
            small.wait(job_id, lambda job: job["sites"].get(VICTIM, {}).get("fits"))
            standing_still.enter_context(small.held_by(VICTIM, job_id))
        with full(small):
            standing_still.close()
            small.wait(job_id, lambda job: "disk_full" in small.federation.coordinator.log.read_text())
            held = small.get(f"jobs/{job_id}")
            ready = httpx.get(f"{small.federation.rest_url}/readyz")
    freed = time.monotonic()
    job, _ = small.finish(job_id)
    took_s = time.monotonic() - freed
    rounds = small.get(f"jobs/{job_id}/rounds")["rounds"]
    same, again = small.different(job_id, tmp_path / "model", **sections) == [], small.sent_again(job_id)
    record_property(
        ROW, [f"disk full during {during}", "", "", same, again, f"{took_s:.1f} from room to the job's end"]
    )
    assert (held["status"], held["model_version"]) == ("RUNNING", 0)
    assert (ready.status_code, ready.json()["checks"]["blobs"]["ok"]) == (503, False)
    assert (job["status"], job["model_version"]) == ("COMPLETED", ROUNDS), job["reason"]
    assert [entry["phase"] for entry in rounds] == ["COMMITTED"] * (ROUNDS + 1)  # no round was abandoned
    assert same
    assert again <= FIRST_BYTES  # what had arrived at the full disk, of the window that a new connection begins with
