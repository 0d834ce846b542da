"""The main job across real processes: train, resume after a restart, refuse what does not fit."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from fedgalore.plan import TrainingPlan
from tests.e2e.conftest import NAMES, Running, ended

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)  # as the agents: another number of threads may round differently


def downloaded(running: Running, job_id: str, folder: Path, auto: Any) -> dict[str, torch.Tensor]:
    answer = httpx.get(running.url(f"jobs/{job_id}/model"))
    assert answer.status_code == 200
    with tarfile.open(fileobj=io.BytesIO(answer.content)) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # early 3.11 has none
        tar.extractall(folder)
    (model,) = folder.iterdir()
    return dict(auto.from_pretrained(model).state_dict())


def assert_same_bits(
    running: Running, job_id: str, folder: Path, auto: Any = AutoModelForSequenceClassification, **sections: object
) -> None:
    weights = downloaded(running, job_id, folder, auto)
    _, result = running.simulated(**sections)
    trained = result.task.weights()
    assert trained.keys() <= weights.keys()
    different = [name for name, tensor in trained.items() if not torch.equal(weights[name], tensor)]
    assert different == []


def test_a_job_runs_to_its_end_with_the_bits_of_the_simulation(running: Running, tmp_path: Path) -> None:
    job_id = running.post()
    job = running.wait(job_id, ended)
    assert (job["status"], job["model_version"]) == ("COMPLETED", 3), job["reason"]

    assert_same_bits(running, job_id, tmp_path)

    rounds = running.get(f"jobs/{job_id}/rounds")["rounds"]
    assert [(r["kind"], r["phase"]) for r in rounds] == [("train", "COMMITTED")] * 3 + [("evaluate", "COMMITTED")]
    _, simulated = running.simulated()
    for entry, record in zip(rounds, simulated.rounds, strict=True):
        accuracy = {name: one["evaluation"]["metrics"]["accuracy"] for name, one in entry["participants"].items()}
        assert accuracy == {name: metrics["accuracy"] for name, metrics in record.evaluation.items()}
    plan: TrainingPlan = simulated.task.plan
    for entry in rounds[:3]:
        assert set(entry["participants"]) == set(NAMES)
        assert entry["dense_bytes"] == plan.dense_bytes()
        assert all(one["up_bytes"] > 0 and one["down_bytes"] > 0 for one in entry["participants"].values())


def test_a_restart_between_rounds_loses_nothing(running: Running, tmp_path: Path) -> None:
    job_id = running.post(rounds={"count": 4})
    running.wait(job_id, lambda job: job["model_version"] == 1)
    assert httpx.post(running.url(f"jobs/{job_id}/pause")).status_code == 200
    paused = running.wait(job_id, lambda job: job["round"] is None)
    assert paused["status"] == "PAUSED"

    running.federation.stop_coordinator(signal.SIGKILL)
    running.federation.start_coordinator()
    again = running.get(f"jobs/{job_id}")
    assert (again["status"], again["model_version"]) == ("PAUSED", paused["model_version"])
    assert httpx.post(running.url(f"jobs/{job_id}/resume")).status_code == 200
    job = running.wait(job_id, ended)
    assert (job["status"], job["model_version"]) == ("COMPLETED", 4), job["reason"]
    rounds = running.get(f"jobs/{job_id}/rounds")["rounds"]
    assert [entry["phase"] for entry in rounds] == ["COMMITTED"] * 5

    assert_same_bits(running, job_id, tmp_path, rounds={"count": 4})


def test_a_truncated_downlink_and_partial_participation_have_the_same_bits_too(
    running: Running, tmp_path: Path
) -> None:
    sections = {"method": {"downlink_rank": 5}, "rounds": {"count": 3, "min_clients": 2}}
    job_id = running.post(**sections)
    assert running.wait(job_id, ended)["status"] == "COMPLETED"
    assert_same_bits(running, job_id, tmp_path, **sections)


def test_a_language_model_is_trained_the_same_way(running: Running, tiny_gpt2: Path, tmp_path: Path) -> None:
    sections = {
        "model": {"source": str(tiny_gpt2), "task": "causal-lm", "num_labels": None},
        "data": {"name": "questions"},
        "rounds": {"count": 2},
    }
    job_id = running.post(**sections)
    job = running.wait(job_id, ended)
    assert job["status"] == "COMPLETED", job["reason"]
    assert_same_bits(running, job_id, tmp_path, AutoModelForCausalLM, **sections)


METHODS: dict[str, dict[str, object]] = {
    "fedavg": {"kind": "fedavg"},
    "fedit": {"kind": "fedit", "rank": 4},
    "ffa_lora": {"kind": "ffa_lora", "rank": 4},
    "flora": {"kind": "flora", "rank": 4, "client_ranks": {"south": 2}},
    "fedex_lora": {"kind": "fedex_lora", "rank": 2},
    "fedgalore": {"kind": "fedgalore", "rank": 4, "client_ranks": {"west": 7}},
    "a shared basis": {"kind": "fedgalore", "rank": 4, "basis": "shared"},
    "states of their own": {"kind": "fedgalore", "rank": 4, "state_sync": "local"},
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_makes_no_difference_to_pause_restart_monitoring_and_download(
    method: str, running: Running, tmp_path: Path
) -> None:
    sections: dict[str, Any] = {"method": METHODS[method], "rounds": {"count": 3}}
    job_id = running.post(**sections)
    running.wait(job_id, lambda job: (job["model_version"] or 0) >= 1)
    assert httpx.post(running.url(f"jobs/{job_id}/pause")).status_code == 200
    paused = running.wait(job_id, lambda job: job["round"] is None)
    assert paused["status"] == "PAUSED"
    assert paused["method"] == METHODS[method]["kind"]
    running.federation.agents["south"].stop(signal.SIGKILL)
    running.federation.agents["south"].start()
    assert httpx.post(running.url(f"jobs/{job_id}/resume")).status_code == 200
    job = running.wait(job_id, ended)
    assert (job["status"], job["model_version"]) == ("COMPLETED", 3), job["reason"]
    trained = [r for r in running.get(f"jobs/{job_id}/rounds")["rounds"] if r["kind"] == "train"]
    for entry in trained:
        assert all(one["up_bytes"] > 0 and one["reported"] for one in entry["participants"].values())
        assert ("joint_rank" in entry["statistics"]) is (
            method == "fedgalore" or ("shared" in method and entry["number"] > 1)
        )
    assert_same_bits(running, job_id, tmp_path, **sections)


def test_a_job_by_the_command_line(running: Running, tmp_path: Path) -> None:
    def fedgalore(*words: str) -> str:
        command = [sys.executable, "-m", "cli.main", *words]
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "FEDGALORE_URL": running.federation.rest_url}
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    document = tmp_path / "job.yaml"
    document.write_text(yaml.safe_dump(running.document(name="by-hand", rounds={"count": 1})))
    job_id = fedgalore("jobs", "submit", str(document)).strip()
    assert "COMPLETED" in fedgalore("jobs", "watch", job_id)
    assert job_id in fedgalore("jobs", "list")
    fedgalore("jobs", "download", job_id, "--to", str(tmp_path / "model"))
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")


def test_labels_outside_the_range_pause_the_job_and_name_file_row_and_remedy(running: Running) -> None:
    job_id = running.post(model={"num_labels": 2})
    job = running.wait(job_id, ended)
    assert job["status"] == "PAUSED"
    assert "label 2 is outside the range 0 to 1" in job["reason"]
    # north and south hold such labels; whoever says so first ends the round
    assert any(f"{name}-t" in job["reason"] for name in ("north", "south"))
    assert "row " in job["reason"]
    assert "model.num_labels" in job["reason"]
    assert httpx.post(running.url(f"jobs/{job_id}/cancel")).status_code == 200


def test_a_model_folder_that_does_not_exist_fails_the_job_with_the_field(running: Running, tmp_path: Path) -> None:
    # a door that sees the folder is missing may refuse the job at once; one that does not lets the aggregator find out
    answer = httpx.post(running.url("jobs"), json=running.document(model={"source": str(tmp_path / "nowhere")}))
    if answer.status_code == 201:
        job = running.wait(answer.json()["id"], ended)
        assert job["status"] == "FAILED"
        text = job["reason"]
    else:
        assert answer.status_code == 422
        text = answer.text
    assert "model.source" in text
    assert "nowhere" in text
