"""The search by Optuna, which is in no lock of all tests."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.builders import job_document
from tests.fedgalore.conftest import sentences, tiny_bert  # noqa: F401  # a fixture

ROOT = Path(__file__).parents[2]


@pytest.mark.trackers
@pytest.mark.timeout(300)
@pytest.mark.skipif(importlib.util.find_spec("optuna") is None, reason="optuna is not here: make trackers")
def test_a_search_goes_on_where_it_was(tmp_path: Path, tiny_bert: Path) -> None:  # noqa: F811
    model = {"source": str(tiny_bert), "num_labels": 3}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job_document(model=model, rounds={"count": 1})))
    for name, count, seed in (("train", 40, 0), ("test", 30, 1)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in sentences(count, seed)))
    command = [sys.executable, str(ROOT / "examples/search_with_optuna.py"), "job.yaml", "train.jsonl", "test.jsonl"]
    for count in (2, 4):
        done = subprocess.run(
            [*command, "--trials", "2", "--clients", "2"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found = re.fullmatch(
            rf"best of {count} trials: accuracy (0\.\d{{4}}) with {{'method.rank': \d, 'local.learning_rate': .*}}\n",
            done.stdout,
        )
        assert found and 0 < float(found[1]) < 1, done.stdout
