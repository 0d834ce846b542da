"""`fedgalore size` on configurations of tiny Llamas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from fedgalore.model.skeleton import base_bytes, plan_of_folder
from fedgalore.sizing import coordinator_needs, site_needs
from fedgalore_cli.main import app
from tests.fedgalore.conftest import language_model

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 500,
}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def size(*words: str | Path) -> dict[str, Any]:
    result = CliRunner().invoke(app, ["size", *map(str, words), "-o", "json"])
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.output)
    return answer


def test_it_says_what_the_formulas_say_of_the_job_that_is_asked_for(model: Path) -> None:
    found = size(model, "--clients", "7", "--rank", "3", "--set", "data.max_length=40")
    spec = language_model(method={"kind": "fedgalore", "rank": 3, "state_sync": "ajive"}, data={"max_length": 40})
    full = size(model, "--clients", "7", "--job", _saved(spec.model_dump(mode="json"), model))
    assert found["site"].keys() == full["site"].keys()
    plan = plan_of_folder(spec, model)
    base = base_bytes(model, plan)
    needs = site_needs(spec, plan, base)
    assert full["site"] == json.loads(json.dumps(vars(needs)))
    assert full["gpu"]["device"] == dict(site_needs(spec, plan, base, on_gpu=True).device)
    assert full["coordinator"]["up"] == coordinator_needs(spec, plan, base, 7).up == 7 * needs.up
    assert (full["model"]["trained"], full["clients"]) == (plan.trained_numbers, 7)


def _saved(document: dict[str, Any], folder: Path) -> Path:
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    return folder / "job.yaml"


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--set", "local.nonsense=1"], "--set local.nonsense: local has no nonsense"),
        (["--rank", "0"], "rank"),
        (["--set", "local.batch_size=0"], "local.batch_size"),
        (["--job", "nowhere.yaml"], "nowhere.yaml: cannot be read"),
    ],
)
def test_what_cannot_be_asked_is_a_sentence(model: Path, words: list[str], problem: str) -> None:
    result = CliRunner().invoke(app, ["size", str(model), *words])
    assert result.exit_code != 0
    assert problem in result.output
    assert "Traceback" not in result.output


def test_a_folder_without_a_configuration_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["size", str(tmp_path)])
    assert (result.exit_code, result.output) == (
        1,
        f"error: MODEL: {tmp_path} has no config.json; name the folder of a model\n",
    )
