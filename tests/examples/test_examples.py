"""The examples run as a reader would run them, and show what they say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]


def run(script: str, folder: Path) -> str:
    """Runs an example from another folder, with warnings as errors; returns what it printed."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / script)]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_optimizer_trains_a_model_with_a_small_state(tmp_path):
    printed = run("galore_optimizer.py", tmp_path)
    losses = [float(loss) for loss in re.findall(r"loss ([\d.]+)", printed)]
    assert len(losses) == 5
    assert losses[-1] < 0.1 < losses[0]
    rates = [float(rate) for rate in re.findall(r"rate ([\d.]+)", printed)]
    assert max(rates) > 0.009 > min(rates)  # the scheduler moved it up and down
    assert float(re.findall(r"accuracy ([\d.]+)", printed)[0]) > 0.95
    kept, adamw = (
        int(number.replace(",", "")) for number in re.findall(r"([\d,]+)(?: numbers|$)", printed.strip())[-2:]
    )
    assert kept < adamw / 20
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_the_simulated_federation_learns_round_by_round(tmp_path):
    printed = run("simulate_federation.py", tmp_path)
    accuracy = [float(value) for value in re.findall(r"model version \d: accuracy ([\d.]+)", printed)]
    assert len(accuracy) == 7
    assert accuracy[0] < 0.6
    assert accuracy[-1] > 0.85
    assert len(re.findall(r"^site-\d ", printed, re.MULTILINE)) == 5
    assert "BertForSequenceClassification with the classes weather, music, food" in printed
    assert not any(tmp_path.iterdir())


@pytest.mark.proof
@pytest.mark.timeout(300)
def test_the_notebook_runs_from_its_first_cell_to_its_last(monkeypatch, tmp_path):
    """Its own last cells compare the federation's metrics to the simulation's."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads = torch.get_num_threads()
    try:
        shown = cells_run(ROOT / "examples" / "client_and_simulation.ipynb")
    finally:
        torch.set_num_threads(threads)
    accuracy = shown["measured"].where(source="evaluation", client=None, metric="accuracy").column("value")
    assert len(accuracy) == 5 and accuracy[-1] > accuracy[0]
    assert shown["trained"].config.id2label == {0: "weather", 1: "music", 2: "food"}


def cells_run(notebook: Path) -> dict[str, Any]:
    """Runs the code of all cells in their order; returns the names that they leave."""
    names: dict[str, Any] = {}
    for number, cell in enumerate(json.loads(notebook.read_text())["cells"]):
        if cell["cell_type"] == "code":
            assert cell["outputs"] == [] and cell["execution_count"] is None, "clear the outputs before you commit"
            exec(compile("".join(cell["source"]), f"{notebook.name} cell {number}", "exec"), names)
    return names


def test_the_readme_lists_every_example():
    text = (ROOT / "examples" / "README.md").read_text()
    files = {path.name for pattern in ("*.py", "*.ipynb") for path in (ROOT / "examples").glob(pattern)}
    assert files == set(re.findall(r"\]\((\w+\.(?:py|ipynb))\)", text))
