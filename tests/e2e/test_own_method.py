"""A method that another package brings: in the simulation, in processes, and what a broken one leaves intact.

The federation's processes see the package (`running`), this process does not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

from tests.e2e.conftest import Running, ended, install

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

METHOD = {"kind": "sign_mean", "step": 0.5}


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A Python process that sees the packages of this folder."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)


def test_a_federation_ends_with_the_bits_of_the_simulation(running: Running, tmp_path: Path) -> None:
    document = running.document(server={"drop_norm": 50}, rounds={"count": 2}) | {"method": METHOD}
    job_id = str(running.ask("POST", "jobs", json=document).json()["id"])
    job = running.wait(job_id, ended)
    assert (job["status"], job["method"], job["model_version"]) == ("COMPLETED", "sign_mean", 2), job["reason"]
    downloaded = running.downloaded(job_id, tmp_path / "downloaded", AutoModelForSequenceClassification)

    (tmp_path / "job.yaml").write_text(yaml.safe_dump(document))
    configs = sorted((running.federation.root / "agents").glob("*/agent.yaml"))
    agents = [word for config in configs for word in ("--agent", str(config))]
    command = ["-m", "fedgalore_cli.main", "simulate", str(tmp_path / "job.yaml"), *agents, "--threads", "1"]
    done = run(running.federation.root.parent / "site", *command, "--to", str(tmp_path / "simulated"))
    assert done.returncode == 0, done.stderr
    simulated = load_file(tmp_path / "simulated" / "model.safetensors")
    assert all(torch.equal(simulated[name], downloaded[name]) for name in simulated)
    before = load_file(running.model / "model.safetensors")
    name = "encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(before[name], downloaded[f"bert.{name}"])


def test_its_section_is_checked_as_every_other(running: Running) -> None:
    for method, field in (({**METHOD, "step": 2}, "method.step"), ({**METHOD, "rank": 4}, "method.rank")):
        answer = running.ask("POST", "jobs", json=running.document() | {"method": method})
        assert answer.status_code == 422
        assert field in answer.text
    with running.federation.http() as http:
        assert "SignMeanSpec" in http.get("/openapi.json").text


@pytest.mark.parametrize(
    ("entry_points", "words"),
    [
        ({"lost": "sign_mean.nowhere:METHOD"}, "sign_mean.nowhere:METHOD cannot be used (ModuleNotFoundError"),
        ({"wrong": "sign_mean.face:SignMeanSpec"}, "the entry point names ModelMetaclass, not a MethodFace"),
        ({"another": "sign_mean.face:METHOD"}, "the entry point is called 'another', its method 'sign_mean'"),
    ],
)
def test_a_broken_method_says_why_and_takes_no_other_away(
    tmp_path: Path, entry_points: dict[str, str], words: str
) -> None:
    script = (
        "from fedgalore.spec.job import SpecError, parse\n"
        "job = {'name': 'a', 'model': {'source': 'm', 'num_labels': 2}, 'data': {'name': 'd'}}\n"
        "print(parse(job).method.kind)\n"
        "try: parse({**job, 'method': {'kind': 'lost'}})\n"
        "except SpecError as error: print(error)\n"
    )
    done = run(install(tmp_path / "site", entry_points), "-c", script)
    assert done.returncode == 0, done.stderr
    kind, refusal = done.stdout.splitlines()
    assert kind == "fedgalore"
    assert refusal.startswith("method.kind: 'lost' does not fit; give fedgalore, fedavg, fedit")
    assert words in refusal
