"""SIGKILL at every point of a job that changes something: it completes, with the bits of the undisturbed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fedgalore.process.faults import Fault
from tests.chaos.conftest import ROUNDS, ROW, SCHEDULE, Chaos

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

AGENT = range(41, 60)
SAVES = 14  # of the coordinator, from a round's opening to the next round's opening
# Fault point -> the passings at which its process dies. A point without an entry is tried at its first passing.
PASSINGS = {
    Fault.STEP_DECIDED: range(1, SAVES + 1),
    Fault.STEP_SAVED: range(1, SAVES + 1),
    Fault.TRAINED_STEP: (1, 3),
    Fault.GROUP_WRITTEN: (1, 2),
    Fault.BLOB_SYNCED: (1, 3),
    Fault.BLOB_NAMED: (1, 3),
    Fault.CHUNK_WRITTEN: (1, 4),  # in the first round and in the second
    Fault.UPLOAD_STORED: (1, 3, 4),
    Fault.UPDATE_ACCEPTED: (1, 2),
    Fault.VERSION_STORED: (1, 2),
}
CASES = [(fault, passing) for fault in Fault for passing in PASSINGS.get(fault, (1,))]


def job_of(fault: Fault, passing: int) -> dict[str, Any]:
    """Sections with a unique seed, because the store and the sites do not write again what they hold already."""
    # Cuts as large as version 0: a checkpoint is due with the first.
    due = {"method": {"kind": "fedavg", "global_momentum": 0.5}} if fault is Fault.CUT_STORED else {}
    return {"rounds": SCHEDULE, "seed": 100 * fault + passing, **due}


@pytest.mark.parametrize(("fault", "passing"), CASES, ids=[f"{fault.value}-{fault.name}-{n}" for fault, n in CASES])
def test_a_death_costs_nothing_but_time(
    chaos: Chaos, tmp_path: Path, fault: Fault, passing: int, record_property: Any
) -> None:
    fired = tmp_path / "fired"
    setting = f"{fault.value}:{passing}:{fired}"
    if fault is Fault.PARTIALS_CLEANED:  # an upload of a job that is over
        (chaos.federation.root / "blobs" / "partial" / f"update+job-gone+1+south+{'0' * 64}").write_bytes(b"left")
    if fault in AGENT:
        chaos.doom_agent(setting)
    else:
        chaos.doom_coordinator(setting)
    if fault is Fault.JOB_REMOVED:
        chaos.delete_another_job()
    sections = job_of(fault, passing)
    job_id = chaos.post_in_spite_of_death(key=str(tmp_path), **sections)
    job, progress_s = chaos.finish(job_id, fired)
    killed = fired.read_text().split()[1] if fired.exists() else "never"
    same, again = chaos.different(job_id, tmp_path / "model", **sections) == [], chaos.sent_again(job_id)
    took = "" if progress_s is None else f"{progress_s:.1f}"
    record_property(ROW, [f"{fault.value} {fault.name}", passing, killed == fault.name, same, again, took])
    assert (job["status"], job["model_version"]) == ("COMPLETED", ROUNDS), job["reason"]
    assert killed == fault.name
    assert same
    assert again == 0
