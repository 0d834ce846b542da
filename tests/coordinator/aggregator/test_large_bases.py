"""Base models as large ones come: in several files, in 16 bits, with grouped queries, tied or untied; or quantized."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load, load_file, save_file

from coordinator.aggregator.compute import PreparationError, prepare
from coordinator.aggregator.stored_model import base_model
from coordinator.store.directory_blob_store import DirectoryBlobStore
from fedgalore.aggregation import first_version
from fedgalore.model.task import TaskModel
from tests.builders import content_of
from tests.fedgalore.conftest import (
    language_model,
    tiny_gpt2,  # noqa: F401  # a fixture
)


def a_llama(folder: Path, tokenizer: Path, *, tied: bool) -> Path:
    words = transformers.AutoTokenizer.from_pretrained(tokenizer)
    config = transformers.LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=words.eos_token_id, tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(1)
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(folder, max_shard_size="40kB")
    words.save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("tied", "local"), [(True, {}), (False, {"weights": "bfloat16", "precision": "bfloat16"})])
def test_shards_with_grouped_queries_are_prepared_and_a_site_draws_the_same_version_0(
    tied: bool,
    local: dict[str, str],
    tiny_gpt2: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    folder = a_llama(tmp_path / "llama", tiny_gpt2, tied=tied)
    blobs = DirectoryBlobStore(tmp_path / "blobs")
    spec = language_model(model={"source": str(folder), "task": "causal-lm", "num_labels": None}, local=local)
    prepared = prepare(spec, blobs)
    names = [name for name, _ in prepared.base_model]
    assert sum(name.startswith("model-0") for name in names) > 1
    assert "model.safetensors.index.json" in names
    with base_model(prepared, blobs) as base:
        drawn = first_version(TaskModel.load(spec, base))
    stored = load(content_of(blobs, prepared.model.weights.sha256))
    assert stored.keys() == drawn.keys()
    assert [name for name, weight in drawn.items() if not torch.equal(stored[name], weight)] == []


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("config", "config.json has a quantization_config, and quantized weights cannot be trained; dequantize"),
        ("integers", "whole numbers in the place of a weight, as quantized models have them; load the model where"),
        ("float8", "is in F8_E4M3, which cannot be trained; load the model where it came from, dequantize it"),
    ],
)
def test_quantized_bases_are_refused_with_the_way_out(
    damage: str,
    words: str,
    tiny_gpt2: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    folder = a_llama(tmp_path / "llama", tiny_gpt2, tied=True)
    if damage == "config":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"quantization_config": {"bits": 4}}))
    else:
        path = next(path for path in sorted(folder.glob("*.safetensors")) if _matrix(path))
        tensors = load_file(path)
        dtype = torch.uint8 if damage == "integers" else torch.float8_e4m3fn
        save_file(tensors | {_matrix(path): tensors[_matrix(path)].to(dtype)}, path, {"format": "pt"})
    spec = language_model(model={"source": str(folder), "task": "causal-lm", "num_labels": None})
    with pytest.raises(PreparationError, match=words):
        prepare(spec, DirectoryBlobStore(tmp_path / "blobs"))


def _matrix(path: Path) -> str:
    return next((name for name in load_file(path) if "up_proj" in name), "")
