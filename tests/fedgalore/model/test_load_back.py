"""A folder that is loaded back has to be the model that was trained; what makes it another is told in words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fedgalore.model.load_back import answers, difference, far
from fedgalore.model.task import TaskModel
from tests.fedgalore.conftest import classifier, configure, image_classifier, language_model

SPECS: dict[str, Callable[..., Any]] = {
    "tiny_bert": classifier,
    "tiny_gpt2": language_model,
    "tiny_vit": image_classifier,
    "tiny_dinov2": image_classifier,
}


def trained(spec: Any, source: Path) -> TaskModel:
    task = TaskModel.load(spec, source)
    torch.manual_seed(0)
    task.load_weights({name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in task.weights().items()})
    return task


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["base", "bfloat16", "float16"])
@pytest.mark.parametrize("source", SPECS)
def test_what_was_saved_is_the_trained_model(
    source: str, dtype: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    spec = SPECS[source]()
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"dtype": dtype})})
    task = trained(spec, request.getfixturevalue(source))
    task.save(tmp_path)
    assert difference(tmp_path, answers(task)) is None


def edited(folder: Path, file: str, change: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / file
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def without_a_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["transformer.h.0.mlp.c_fc.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def with_another_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["transformer.h.0.mlp.c_fc.weight"] *= 1.5
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (
            without_a_weight,
            r"it does not load, or does not run \(ValueError: 1 weights would be drawn anew",
        ),
        (with_another_weight, r"its logits differ by up to [\d.]+ from those of the trained model, which reach [\d.]+"),
        (
            lambda folder: configure(folder, activation_function="no_such"),
            r"it does not load, or does not run \(Key",
        ),
        (
            lambda folder: edited(folder, "generation_config.json", lambda values: values.update(eos_token_id=7)),
            r"its generation_config.json sets eos_token_id to 7 in place of 3",
        ),
        (
            lambda folder: edited(folder, "generation_config.json", lambda values: values.update(num_beams=2)),
            r"its generation_config.json sets num_beams to 2 in place of None",
        ),
        (
            lambda folder: edited(folder, "tokenizer.json", lambda values: values["model"]["vocab"].update(a=5, the=6)),
            r"its tokenizer reads 'some words, and a number: 42' otherwise",
        ),
        (
            lambda folder: (folder / "chat_template.jinja").write_text("{{ messages }}"),
            "its chat template is another",
        ),
    ],
    ids=["missing", "changed", "unknown", "endless", "beams", "reads", "chat"],
)
def test_another_model_is_told_in_words(
    spoil: Callable[[Path], Any], words: str, tiny_gpt2: Path, tmp_path: Path
) -> None:
    task = trained(language_model(), tiny_gpt2)
    task.save(tmp_path)
    spoil(tmp_path)
    said = difference(tmp_path, answers(task))
    assert said is not None
    assert re.match(words, said), said


def test_other_pixels_are_told(tiny_vit: Path, tmp_path: Path) -> None:
    task = trained(image_classifier(), tiny_vit)
    task.save(tmp_path)
    edited(tmp_path, "preprocessor_config.json", lambda values: values.update(image_mean=[0.1, 0.2, 0.3]))
    assert difference(tmp_path, answers(task)) == "its image processor makes other pixels"


def test_infinite_logits_have_to_be_the_same_ones() -> None:
    logits = torch.tensor([[0.5, -torch.inf, 2.0]])
    assert far(logits.clone(), logits) is None
    assert far(torch.tensor([[0.5, 1.0, 2.0]]), logits) == "other answers of it are infinite, or no numbers"
    assert far(torch.tensor([[0.5, -torch.inf, 2.5]]), logits) == (
        "its logits differ by up to 0.5 from those of the trained model, which reach 2"
    )
    assert far(torch.zeros(1, 2), logits) == "its answers have the shape (1, 2) in place of (1, 3)"
    assert far(torch.full((1, 2), torch.nan), torch.full((1, 2), torch.nan)) is None
