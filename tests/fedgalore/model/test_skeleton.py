"""Plans of models that are built without values."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import transformers

from fedgalore.model.inputs import TaskError
from fedgalore.model.skeleton import base_bytes, plan_of_folder
from fedgalore.model.task import TaskModel
from fedgalore.spec.job import JobSpec
from tests.builders import a_spec
from tests.fedgalore.conftest import classifier, image_classifier, language_model, translator

LLAMA = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 40,
}


@pytest.mark.parametrize(
    ("fixture", "spec"),
    [
        ("tiny_bert", classifier()),
        ("tiny_gpt2", language_model()),
        ("tiny_t5", translator()),
        ("tiny_vit", image_classifier()),
    ],
)
def test_the_plan_is_that_of_the_model_with_its_weights(
    fixture: str, spec: JobSpec, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue(fixture)
    plan, loaded = plan_of_folder(spec, folder), TaskModel.load(spec, folder)
    assert plan == loaded.plan
    assert plan.shape == loaded.plan.shape
    assert plan.shape.parameters == sum(each.numel() for each in loaded.model.parameters())
    assert base_bytes(folder, plan) == sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("tied", [False, True])
def test_a_configuration_alone_tells_shapes_and_bytes(tmp_path: Path, tied: bool) -> None:
    (tmp_path / "config.json").write_text(json.dumps(LLAMA | {"tie_word_embeddings": tied, "dtype": "bfloat16"}))
    plan = plan_of_folder(language_model(), tmp_path)
    shape, layer = plan.shape, 2 * (16 + 16) + 2 * (16 + 8) + 3 * (16 + 24)  # with grouped queries
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_pretrained(tmp_path))
    assert shape.parameters == sum(each.numel() for each in model.parameters())
    assert (shape.inner, shape.blocks, shape.between, shape.outputs) == (3 * layer, 3, 16, 40)
    config = (tmp_path / "config.json").stat().st_size
    assert base_bytes(tmp_path, plan) == 2 * shape.parameters + config
    index = tmp_path / "model.safetensors.index.json"  # shards that are not there yet are not left out
    index.write_text(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}))
    (tmp_path / "model-1.safetensors").write_bytes(b"tensors")
    assert base_bytes(tmp_path, plan) == 2 * shape.parameters + config + index.stat().st_size
    (tmp_path / "model-2.safetensors").write_bytes(b"more")
    assert base_bytes(tmp_path, plan) == 11 + config + index.stat().st_size
    index.write_text("[]")
    with pytest.raises(TaskError, match="index.json of .* is damaged; save the model anew"):
        base_bytes(tmp_path, plan)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "nonsense"}, "model.source: transformers builds no model for causal-lm from"),
        (LLAMA | {"hidden_size": "many"}, "model.source: transformers builds no model for causal-lm from"),
        (LLAMA | {"quantization_config": {"bits": 4}}, "quantized weights cannot be trained"),
        (LLAMA | {"auto_map": {"AutoModel": "own.py"}}, "asks for code"),
    ],
)
def test_a_folder_that_gives_no_model_is_refused(tmp_path: Path, config: dict[str, object], words: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(TaskError, match=words):
        plan_of_folder(a_spec(model={"task": "causal-lm", "num_labels": None}), tmp_path)
