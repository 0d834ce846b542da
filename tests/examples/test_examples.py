"""The examples run as a reader would run them, and show what they say."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_readme_lists_every_example():
    text = (ROOT / "examples" / "README.md").read_text()
    scripts = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert scripts == set(re.findall(r"\]\((\w+\.py)\)", text))
