"""Two replicas behind a balancer without sticky sessions, while replicas are replaced and the master of Redis dies."""

from __future__ import annotations

import signal
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import AutoModelForSequenceClassification

from tests.chaos.conftest import ROUNDS, ROW, SCHEDULE
from tests.e2e.conftest import agents_of, different, ended
from tests.redis_groups import replicated as redis_replicated
from tests.replicas import Replicated, replicated

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

REPLACED = 4  # replicas, one after the other
BETWEEN_S = 5.0


def finished(running: Replicated, job_id: str, what: str, folder: Path, record: Any, **sections: Any) -> None:
    """The job ends with all of its rounds and the bits of an undisturbed run."""
    job = running.wait(job_id, ended)
    rounds = running.get(f"jobs/{job_id}/rounds")["rounds"]
    weights = running.downloaded(job_id, folder / "model", AutoModelForSequenceClassification)
    same = different(weights, running.simulated(**sections)) == []
    parts = [part for each in rounds for part in each["participants"].values() if part["update_bytes"]]
    again = sum(max(0, part["up_bytes"] - part["update_bytes"]) for part in parts)
    record(ROW, [what, "", True, same, again, ""])
    assert (job["status"], job["model_version"]) == ("COMPLETED", ROUNDS), job["reason"]
    assert {each["phase"] for each in rounds} == {"COMMITTED"}  # no round was lost
    assert same


def calls(port: int) -> Counter[str]:
    """Calls of agents that a replica answered, by method."""
    found: Counter[str] = Counter()
    for line in httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30).text.splitlines():
        if line.startswith("fedgalore_agent_calls_total{"):
            found[line.partition('method="')[2].partition('"')[0]] += int(float(line.rpartition(" ")[2]))
    return found


def test_any_replica_answers_any_call(tmp_path: Path, tiny_bert: Path, record_property: Any) -> None:
    sections = {"rounds": SCHEDULE, "seed": 500, "method": {"rank": 16}}
    with replicated(tmp_path / "run", tiny_bert, agents_of(tmp_path)) as running:
        job_id = running.post(**sections)
        finished(running, job_id, "every connection to the next replica", tmp_path, record_property, **sections)
        answered = [calls(replica.ports["rest"]) for replica in running.replicas]
        for method in ("NextTask", "DownloadBlob", "QueryUpload", "ReportProgress"):
            assert all(each[method] for each in answered), (method, answered)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
def test_replicas_are_replaced_one_after_the_other(
    tmp_path: Path, tiny_bert: Path, sign: signal.Signals, record_property: Any
) -> None:
    sections = {"rounds": SCHEDULE, "seed": 600 + sign}
    with replicated(tmp_path / "run", tiny_bert, agents_of(tmp_path)) as running:
        job_id = running.post(**sections)
        for turn in range(REPLACED):
            replica = running.replicas[turn % 2]
            replica.restart(sign)
            running.wait_for(replica)
            time.sleep(BETWEEN_S)
        what = f"{REPLACED} replicas {sign.name} in turns, no sticky sessions"
        finished(running, job_id, what, tmp_path, record_property, **sections)


@pytest.mark.parametrize("phase", ["CONFIGURATION", "REPORTING"])
def test_the_master_of_redis_dies_in_a_round(tmp_path: Path, tiny_bert: Path, phase: str, record_property: Any) -> None:
    sections = {"rounds": SCHEDULE, "seed": 700 + len(phase)}
    with redis_replicated(tmp_path, replicas=2) as group:
        redis = nullcontext(replace(group, url=f"{group.url}?replicas=1"))
        with replicated(tmp_path / "run", tiny_bert, agents_of(tmp_path), redis) as running:
            job_id = running.post(**sections)
            running.wait(job_id, lambda job: job["round"] is not None and job["round"]["phase"] == phase)
            group.kill_master()
            finished(running, job_id, f"master of Redis killed in {phase}", tmp_path, record_property, **sections)
