"""The main job across real processes: train, resume after a restart, refuse what does not fit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    pipeline,
)

from fedgalore.client import Client
from fedgalore.measures import custom
from fedgalore.measures.values import MEASURES
from fedgalore.records import SimulationResult
from fedgalore.spec.registry import methods
from tests.e2e.conftest import NAMES, TOP_TWO, Running, different, ended
from tests.fedgalore.conftest import COLOURS, sentences
from tests.fedgalore.model.test_plan import mixture

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]  # on a busy machine every process needs its time


HEADER_BYTES = 2**14  # of one file of so few tensors, at most


def assert_same_bits(
    running: Running, job_id: str, folder: Path, auto: Any = AutoModelForSequenceClassification, **sections: object
) -> SimulationResult:
    """The job's download loads and holds what a simulation of the job ends with, which is returned."""
    weights = running.downloaded(job_id, folder, auto)
    result = running.simulated(**sections)
    assert different(weights, result) == []
    return result


def assert_reported(running: Running, job_id: str, simulated: SimulationResult) -> None:
    """REST reports the same rounds of the job as the simulation, and the client the same metrics."""
    with Client(running.federation.rest_url) as client:
        measured, expected = client.metrics(job_id), simulated.metrics()
    for source in ("evaluation", "training", "held_out"):
        assert measured.where(source=source) == expected.where(source=source)
    rounds = running.get(f"jobs/{job_id}/rounds")["rounds"]
    trained = len(simulated.rounds) - 1
    phases = [("train", "COMMITTED")] * trained + [("evaluate", "COMMITTED")]
    assert [(entry["kind"], entry["phase"]) for entry in rounds] == phases
    for entry, record in zip(rounds, simulated.rounds, strict=True):
        assert entry["statistics"] == record.statistics
        assert entry["evaluation"]["confusion_matrix"] == record.pooled.confusion_matrix
        by_class = {name: list(row.values()) for name, row in entry["evaluation"]["per_class"].items()}
        assert by_class == record.pooled.per_class
    for entry, record in zip(rounds[:trained], simulated.rounds, strict=False):
        assert set(entry["participants"]) == set(NAMES)
        assert all(site["up_bytes"] > 0 for site in entry["participants"].values())
        assert 0 < entry["up_bytes"] - record.up_bytes <= len(NAMES) * HEADER_BYTES
        assert entry["dense_bytes"] == simulated.task.plan.dense_bytes()
    for entry, record in zip(rounds[1:], simulated.rounds[1:], strict=True):  # the base model may be there already
        assert all(site["down_bytes"] > 0 for site in entry["participants"].values())
        assert entry["down_bytes"] >= record.down_bytes  # whoever was restarted or at another job fetched more


def test_a_job_runs_to_its_end_with_the_bits_of_the_simulation(running: Running, tmp_path: Path) -> None:
    job_id = running.post(seed=1)  # no other test has this seed: an agent does not fetch twice what it has
    job = running.wait(job_id, ended)
    assert (job["status"], job["model_version"]) == ("COMPLETED", 3), job["reason"]
    assert_reported(running, job_id, assert_same_bits(running, job_id, tmp_path, seed=1))


@pytest.mark.proof
def test_a_truncated_downlink_partial_participation_and_all_that_shapes_a_step_have_the_same_bits_too(
    running: Running, tmp_path: Path
) -> None:
    passes = {"micro_batch_size": 3, "activation_checkpointing": True, "max_grad_norm": 0.5}
    sections = {
        "local": {"steps": 3, "batch_size": 8, **passes, "schedule": "cosine", "warmup_rounds": 1},
        "wire": {"down_rank": 5},
        "rounds": {"count": 3, "min_clients": 2},
        "server": {"clip_norm": 0.9},
    }
    job_id = running.post(**sections)
    assert running.wait(job_id, ended)["status"] == "COMPLETED"
    assert_same_bits(running, job_id, tmp_path, **sections)


def test_a_language_model_is_trained_the_same_way(running: Running, tiny_gpt2: Path, tmp_path: Path) -> None:
    sections = {
        "model": {"source": str(tiny_gpt2), "task": "causal-lm", "num_labels": None},
        "data": {"name": "questions"},
        "rounds": {"count": 2},
        "local": {"steps": 3, "batch_size": 8, "weights": "bfloat16", "precision": "bfloat16"},
        "evaluation": {"exact_match": "text", "max_new_tokens": 4},
    }
    job_id = running.post(**sections)
    job = running.wait(job_id, ended)
    assert job["status"] == "COMPLETED", job["reason"]
    simulated = assert_same_bits(running, job_id, tmp_path, AutoModelForCausalLM, **sections)
    assert_reported(running, job_id, simulated)
    for entry in running.get(f"jobs/{job_id}/rounds")["rounds"]:
        assert all(0 <= site["evaluation"]["metrics"]["exact_match"] <= 1 for site in entry["participants"].values())
    assert job["evaluation"]["metrics"]["exact_match"] > 0.5


@pytest.fixture
def _allowed() -> Iterator[None]:
    """This process allows a metric of another package, as the agents do."""
    custom.allow([TOP_TWO])
    yield
    del custom.ALLOWED[TOP_TWO], MEASURES[TOP_TWO]


@pytest.mark.proof
@pytest.mark.usefixtures("_allowed")
def test_what_the_coordinator_holds_out_is_measured_as_the_simulation_does(running: Running, tmp_path: Path) -> None:
    rows = sentences(30, 99)
    file = tmp_path / "held-out.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    running.federation.stop_coordinator()
    held_out = {"later": {"file": str(file), "text": "text", "label": "label"}}
    running.federation.start_coordinator(
        FEDGALORE_HELD_OUT=json.dumps(held_out), FEDGALORE_METRICS=json.dumps([TOP_TWO])
    )
    keep = {"metric": "f1", "by": "central"}
    sections = {
        "rounds": {"count": 2},
        "evaluation": {"central": "later", "metrics": ["f1", "mcc", TOP_TWO], "keep": keep},
    }
    unknown = running.ask("POST", "jobs", json=running.document(evaluation={"central": "sooner"}))
    assert unknown.status_code == 422
    assert "'sooner' (it holds out later)" in unknown.text
    job_id = running.post(**sections)
    job = running.wait(job_id, ended)
    assert job["status"] == "COMPLETED", job["reason"]
    rounds = running.get(f"jobs/{job_id}/rounds")["rounds"]
    simulated = running.simulated({"later": rows}, **sections)
    records, best = simulated.rounds, simulated.best
    assert best is not None
    assert job["best"] == {
        "model_version": best.version,
        "metric": "f1",
        "value": best.value,
        "by": "central",
        "since": best.since,
    }
    for entry, record in zip(rounds, records, strict=True):
        assert entry["held_out"]["metrics"] == record.held_out["later"].metrics
        assert entry["evaluation"]["metrics"] == record.pooled.metrics
        assert all(TOP_TWO in entry[measured]["metrics"] for measured in ("evaluation", "held_out"))
    assert job["held_out"] == rounds[-1]["held_out"]
    assert (job["held_out"]["model_version"], job["held_out"]["examples"]) == (2, 30)


@pytest.mark.proof
def test_a_vision_transformer_is_trained_the_same_way(running: Running, tiny_vit: Path, tmp_path: Path) -> None:
    sections = {
        "model": {
            "source": str(tiny_vit),
            "task": "image-classification",
            "num_labels": None,
            "label_names": list(COLOURS),
        },
        "data": {"name": "squares"},
        "rounds": {"count": 2},
        "evaluation": {"metrics": ["f1", "recall", "mcc", "auroc", "confusion_matrix"]},
    }
    job_id = running.post(**sections)
    job = running.wait(job_id, ended)
    assert job["status"] == "COMPLETED", job["reason"]
    simulated = assert_same_bits(running, job_id, tmp_path, AutoModelForImageClassification, **sections)
    assert_reported(running, job_id, simulated)
    (model,) = tmp_path.iterdir()
    classify = pipeline("image-classification", model=str(model))
    scores = classify(Image.new("RGB", (30, 20), COLOURS["red"]), top_k=3)
    assert {score["label"] for score in scores} == set(COLOURS)
    assert AutoImageProcessor.from_pretrained(model).size == AutoImageProcessor.from_pretrained(tiny_vit).size


@pytest.mark.proof
def test_running_statistics_and_kernels_have_the_same_bits_too(
    running: Running, tiny_levit: Path, tmp_path: Path
) -> None:
    labels = {"task": "image-classification", "num_labels": None, "label_names": list(COLOURS)}
    sections = {
        "model": {"source": str(tiny_levit), **labels},
        "data": {"name": "squares"},
        "rounds": {"count": 2},
    }
    job_id = running.post(**sections)
    job = running.wait(job_id, ended)
    assert job["status"] == "COMPLETED", job["reason"]
    simulated = assert_same_bits(running, job_id, tmp_path, AutoModelForImageClassification, **sections)
    assert simulated.task.plan.buffers
    last = running.get(f"jobs/{job_id}/rounds")["rounds"][-1]["participants"]
    assert {name: site["evaluation"]["metrics"] for name, site in last.items()} == simulated.rounds[-1].evaluation
    assert job["trains"]["trained"]["convolution"] == job["trains"]["parameters"]["convolution"]


@pytest.mark.proof
def test_experts_of_a_mixture_have_the_same_bits_too(running: Running, tiny_gpt2: Path, tmp_path: Path) -> None:
    source = mixture(tmp_path / "mixture", tiny_gpt2, "mixtral")
    sections = {
        "model": {"source": str(source), "task": "causal-lm", "num_labels": None},
        "data": {"name": "questions"},
        "rounds": {"count": 2},
    }
    job_id = running.post(**sections)
    job = running.wait(job_id, ended)
    assert job["status"] == "COMPLETED", job["reason"]
    simulated = assert_same_bits(running, job_id, tmp_path / "download", AutoModelForCausalLM, **sections)
    assert_reported(running, job_id, simulated)


METHODS: dict[str, dict[str, Any]] = {
    "fedavg": {"kind": "fedavg"},
    "fedit": {"kind": "fedit", "rank": 4},
    "ffa_lora": {"kind": "ffa_lora", "rank": 4},
    "flora": {"kind": "flora", "rank": 4, "client_ranks": {"south": 2}, "global_momentum": 0.5},
    "fedex_lora": {"kind": "fedex_lora", "rank": 2},
    "frlora": {"kind": "frlora", "rank": 2},
    "fedsvd": {"kind": "fedsvd", "rank": 2},
    "fedgalore": {
        "kind": "fedgalore",
        "rank": 4,
        "client_ranks": {"west": 7},
        "update_proj_gap": 3,
        "state_sync": "local",
    },
    "aligned states": {"kind": "fedgalore", "rank": 5, "state_sync": "ajive"},
    "a shared basis": {"kind": "fedgalore", "rank": 4, "basis": "shared", "state_sync": "ajive"},
}


def test_every_kind_of_method_has_a_line() -> None:
    assert {method["kind"] for method in METHODS.values()} == set(methods())


@pytest.mark.proof
def test_no_method_makes_a_difference_to_pause_restart_monitoring_and_download(
    running: Running, tmp_path: Path
) -> None:
    jobs = {name: running.post(method=method) for name, method in METHODS.items()}
    for job_id in jobs.values():
        running.wait(job_id, lambda job: job["round"] is not None or ended(job))
        assert httpx.post(running.url(f"jobs/{job_id}/pause")).status_code == 200
    versions = {}
    for name, job_id in jobs.items():
        paused = running.wait(job_id, lambda job: job["round"] is None)
        assert (paused["status"], paused["method"]) == ("PAUSED", METHODS[name]["kind"])
        assert 1 <= paused["model_version"] < 3, name
        versions[job_id] = paused["model_version"]
    running.restart_agent("south")
    running.federation.stop_coordinator(signal.SIGKILL)
    running.federation.start_coordinator()
    for name, job_id in jobs.items():
        again = running.get(f"jobs/{job_id}")
        assert (again["status"], again["model_version"]) == ("PAUSED", versions[job_id]), name
        assert httpx.post(running.url(f"jobs/{job_id}/resume")).status_code == 200
        job = running.wait(job_id, ended)
        assert (job["status"], job["model_version"]) == ("COMPLETED", 3), (name, job["reason"])
        simulated = assert_same_bits(running, job_id, tmp_path / name, method=METHODS[name])
        assert_reported(running, job_id, simulated)
        shares = [record.number for record in simulated.rounds if "joint_rank" in record.statistics]
        assert shares == {"aligned states": [1, 2, 3], "a shared basis": [2, 3]}.get(name, [])


def test_a_killed_agent_goes_on_from_what_it_kept(running: Running, tmp_path: Path) -> None:
    sections = {
        "method": {"kind": "fedgalore", "rank": 4, "state_sync": "local", "update_proj_gap": 8},
        "local": {"steps": 12, "learning_rate": None},
    }
    job_id = running.post(**sections)
    running.wait(job_id, lambda job: (job["model_version"] or 0) >= 1)
    running.restart_agent("west")  # wherever it is in its second round
    job = running.wait(job_id, ended)
    assert (job["status"], job["model_version"]) == ("COMPLETED", 3), job["reason"]
    assert_same_bits(running, job_id, tmp_path, **sections)


@pytest.mark.proof
@pytest.mark.parametrize("method", [METHODS["a shared basis"], METHODS["fedit"]], ids=str)
def test_training_goes_on_from_a_version_that_was_made_current_again(
    running: Running, tmp_path: Path, method: dict[str, Any]
) -> None:
    seed = 11 + len(method)  # of no other test: agents would hold its blobs already
    job_id = running.post(method=method, seed=seed)
    assert running.wait(job_id, ended)["status"] == "COMPLETED"
    back = running.ask("POST", f"jobs/{job_id}/rollback", json={"version": 1}).json()
    assert (back["status"], back["model_version"], back["rounds_done"]) == ("PAUSED", 4, 1), back
    first = running.simulated(method=method, seed=seed, rounds={"count": 1})
    assert_has_the_bits_of(running, job_id, tmp_path / "fourth", first)
    assert running.ask("POST", f"jobs/{job_id}/resume").status_code == 200
    first_again = assert_goes_on_from(running, job_id, 4)[4]
    down = {name: part["down_bytes"] for name, part in first_again["participants"].items()}
    assert min(down.values()) > first_again["dense_bytes"]  # the checkpoint: nobody goes on from version 3 to 4
    assert different(running.downloaded(job_id, tmp_path / "sixth", AutoModelForSequenceClassification), first) != []


def test_a_running_job_abandons_its_round_and_goes_on_from_an_earlier_version(running: Running, tmp_path: Path) -> None:
    sections = {"method": {"kind": "fedgalore", "rank": 4}, "seed": 13}
    job_id = running.post(**sections)
    running.wait(job_id, lambda job: (job["model_version"] or 0) >= 2)
    with running.held_by("west", job_id):
        back = running.ask("POST", f"jobs/{job_id}/rollback", json={"version": 1}).json()
        assert (back["status"], back["rounds_done"]) == ("RUNNING", 1), back
        first = running.simulated(**sections, rounds={"count": 1})
        assert_has_the_bits_of(running, job_id, tmp_path, first)
    rounds = assert_goes_on_from(running, job_id, back["model_version"])
    abandoned = [entry["reason"] for entry in rounds if entry["phase"] == "ABANDONED"]
    assert abandoned == ["the job was rolled back to version 1"]


def assert_has_the_bits_of(running: Running, job_id: str, folder: Path, simulated: SimulationResult) -> None:
    weights = running.downloaded(job_id, folder, AutoModelForSequenceClassification)
    assert different(weights, simulated) == []


def assert_goes_on_from(running: Running, job_id: str, version: int) -> list[Any]:
    """Two rounds are trained from this version, which has the weights of version 1. Returns all rounds."""
    job = running.wait(job_id, ended)
    assert (job["status"], job["model_version"], job["rounds_done"]) == ("COMPLETED", version + 2, 3), job["reason"]
    rounds: list[Any] = running.get(f"jobs/{job_id}/rounds")["rounds"]
    committed = [entry for entry in rounds if entry["phase"] == "COMMITTED"]
    assert [entry["model_version"] for entry in committed[-3:]] == [version, version + 1, version + 2]
    return rounds


def test_a_job_by_the_command_line(running: Running, tmp_path: Path) -> None:
    def fedgalore(*words: str) -> str:
        command = [sys.executable, "-m", "fedgalore_cli.main", *words]
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


def test_labels_outside_the_range_pause_the_job_before_a_byte_is_sent(running: Running) -> None:
    """North and south hold such labels, and west alone is not enough."""
    job_id = running.post(model={"num_labels": 2})
    job = running.wait(job_id, ended)
    assert job["status"] == "PAUSED"
    assert (job["up_bytes"], job["down_bytes"]) == (0, 0)
    assert all(not each["participants"] for each in running.get(f"jobs/{job_id}/rounds")["rounds"])
    assert {name: site["fits"] for name, site in job["sites"].items()} == {"north": False, "south": False, "west": True}
    assert job["sites"]["west"]["examples"] == 60
    for words in ("north: ", "training examples", "south: ", "test examples", "label_names or num_labels"):
        assert words in job["reason"]
    assert not any(words in job["reason"] for words in (".jsonl", "row 1", "label 2"))
    assert "label 2 is outside the range 0 to 1" in running.federation.agents["north"].last_lines(200)
    assert httpx.post(running.url(f"jobs/{job_id}/cancel")).status_code == 200


def test_completions_without_a_number_pause_the_job_before_any_training(running: Running, tiny_gpt2: Path) -> None:
    job_id = running.post(
        model={"source": str(tiny_gpt2), "task": "causal-lm", "num_labels": None},
        data={"name": "questions"},
        evaluation={"every": 0, "exact_match": "number", "max_new_tokens": 4},
    )
    job = running.wait(job_id, ended)
    assert (job["status"], job["down_bytes"]) == ("PAUSED", 0)
    for words in ("test examples have a completion without a number", "evaluation.exact_match: text"):
        assert words in job["reason"]
    assert all(not each["participants"] for each in running.get(f"jobs/{job_id}/rounds")["rounds"])
    assert httpx.post(running.url(f"jobs/{job_id}/cancel")).status_code == 200


def test_a_model_folder_that_does_not_exist_fails_the_job_with_the_field(running: Running, tmp_path: Path) -> None:
    # a door that sees that the folder is missing may refuse the job at once; otherwise the aggregator fails it later
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
