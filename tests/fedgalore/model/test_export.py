"""The number formats of downloads: the base model's, or the job's choice. What is evaluated is what is saved."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fedgalore.evaluation import evaluate
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from tests.fedgalore.conftest import classifier, configure, language_model, sentences


def with_dtype(folder: Path, dtype: torch.dtype, *but: str) -> dict[str, torch.Tensor]:
    """Makes the folder's weights of this dtype, but for those whose name ends in one of `but`."""
    path = folder / "model.safetensors"
    weights = {
        name: tensor if name.endswith(but) and but else tensor.to(dtype) for name, tensor in load_file(path).items()
    }
    save_file(weights, path, {"format": "pt"})
    configure(folder, dtype=str(dtype).removeprefix("torch."))
    return weights


def saved(task: TaskModel, folder: Path, **options: Any) -> dict[str, torch.Tensor]:
    task.save(folder, **options)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_base_model_s_format_is_kept_and_so_are_its_bits(bert_copy, tmp_path, dtype):
    base = with_dtype(bert_copy, dtype)
    task = TaskModel.load(classifier(), bert_copy)
    tensors = saved(task, tmp_path / "out")
    assert {tensor.dtype for tensor in tensors.values()} == {dtype}
    for name, tensor in base.items():
        assert torch.equal(tensors[f"bert.{name}"], tensor)
    assert torch.equal(tensors["classifier.weight"], task.weights()["classifier.weight"].to(dtype))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == str(dtype).removeprefix("torch.")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.dtype is dtype


def test_a_base_model_of_two_formats_keeps_both(bert_copy, tmp_path):
    base = with_dtype(bert_copy, torch.bfloat16, "LayerNorm.weight", "LayerNorm.bias")
    tensors = saved(TaskModel.load(classifier(), bert_copy), tmp_path / "out")
    assert {name: tensors[f"bert.{name}"].dtype for name in base} == {name: t.dtype for name, t in base.items()}
    assert tensors["classifier.weight"].dtype is torch.bfloat16
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_files_beside_the_model_do_not_count(bert_copy, tmp_path):
    half = {name: tensor.half() for name, tensor in load_file(bert_copy / "model.safetensors").items()}
    save_file(half, bert_copy / "model.fp16.safetensors")
    tensors = saved(TaskModel.load(classifier(), bert_copy), tmp_path / "out")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_whole_numbers_in_the_place_of_a_weight_are_refused(bert_copy):
    path = bert_copy / "model.safetensors"
    weights = load_file(path)
    name = "encoder.layer.1.output.dense.weight"
    save_file(weights | {name: (100 * weights[name]).to(torch.int8), "counts": torch.ones(2).int()}, path)
    with pytest.raises(TaskError, match=rf"model\.source: the folder has {name} in I8, whole numbers in the"):
        TaskModel.load(classifier(), bert_copy)


def test_the_configuration_says_what_the_weights_are_whatever_it_said(bert_copy, tmp_path):
    configure(bert_copy, dtype="float16")  # but its weights are float32
    saved(TaskModel.load(classifier(), bert_copy), tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_job_chooses_another_format(bert_copy, tmp_path, dtype):
    with_dtype(bert_copy, torch.bfloat16)
    spec = classifier(model={"source": "m", "num_labels": 3, "dtype": dtype})
    task = TaskModel.load(spec, bert_copy)
    tensors = saved(task, tmp_path / "out")
    assert {tensor.dtype for tensor in tensors.values()} == {getattr(torch, dtype)}
    template = saved(task, tmp_path / "template", as_base=True)  # loses nothing by the choice
    assert {tensor.dtype for tensor in template.values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "template" / "config.json").read_text())["dtype"] == dtype


def test_what_is_evaluated_is_what_is_saved(tiny_bert, tmp_path):
    spec = classifier(model={"source": "m", "num_labels": 3, "dtype": "bfloat16"})
    task = TaskModel.load(spec, tiny_bert)
    masters = {name: tensor + 1e-3 * torch.randn_like(tensor) for name, tensor in task.weights().items()}
    task.load_weights(masters)
    examples = sentences(12, 0)
    reported = evaluate(task, examples).metrics
    task.load_weights(masters)
    task.save(tmp_path / "out")
    plain = classifier(model={"source": "m", "num_labels": 3, "dtype": "float32"})
    assert evaluate(TaskModel.load(plain, tmp_path / "out"), examples).metrics == reported
    task.load_weights(masters)
    assert all(torch.equal(tensor, masters[name]) for name, tensor in task.weights().items())


def test_weights_that_are_not_trained_are_those_of_the_download_already(tiny_bert):
    spec = classifier(model={"source": "m", "num_labels": 3, "dtype": "bfloat16"})
    state = TaskModel.load(spec, tiny_bert).model.state_dict()
    frozen = state["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(frozen, frozen.bfloat16().float())
    trained = state["classifier.weight"]
    assert not torch.equal(trained, trained.bfloat16().float())


def test_eight_bits_are_refused_in_words(bert_copy):
    weights = load_file(bert_copy / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    save_file(
        weights | {name: weights[name].to(torch.float8_e4m3fn)}, bert_copy / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(TaskError, match=r"model\.source: encoder.* is in F8_E4M3, which cannot be trained"):
        TaskModel.load(classifier(), bert_copy)


def test_two_labels_are_said_where_an_architecture_has_three_by_default(tmp_path, tiny_bert):
    """transformers leaves two labels out of what it saves, as if all architectures had two."""
    shape = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    shape |= {"encoder_ffn_dim": 16, "decoder_ffn_dim": 16, "d_model": 16, "max_position_embeddings": 32}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_bert)
    tokenizer.eos_token = "[SEP]"
    tokenizer.save_pretrained(tmp_path / "bart")
    config = transformers.BartConfig(vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=3, **shape)
    torch.manual_seed(0)
    transformers.BartModel(config).save_pretrained(tmp_path / "bart")
    task = TaskModel.load(classifier(model={"source": "m", "num_labels": 2}), tmp_path / "bart")
    task.save(tmp_path / "out")
    loaded = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    assert loaded.config.num_labels == 2


def test_a_base_model_in_several_files_has_its_format_too(tmp_path, bert_copy):
    half = transformers.BertModel.from_pretrained(bert_copy, dtype=torch.bfloat16)
    (bert_copy / "model.safetensors").unlink()
    half.save_pretrained(bert_copy, max_shard_size="10KB")
    assert (bert_copy / "model.safetensors.index.json").is_file()
    tensors = saved(TaskModel.load(classifier(), bert_copy), tmp_path / "out")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}


@pytest.mark.parametrize(("said", "dtype"), [("bfloat16", torch.bfloat16), (None, torch.float32)])
def test_a_pickle_has_the_format_that_its_configuration_says(tmp_path, bert_copy, said, dtype):
    weights = load_file(bert_copy / "model.safetensors")
    torch.save({name: tensor.to(dtype) for name, tensor in weights.items()}, bert_copy / "pytorch_model.bin")
    (bert_copy / "model.safetensors").unlink()
    configure(bert_copy, dtype=said)
    task = TaskModel.load(classifier(), bert_copy, allow_pickle=True)
    assert {tensor.dtype for tensor in saved(task, tmp_path / "out").values()} == {dtype}


def test_tied_weights_stay_tied_in_another_format(tmp_path, tiny_gpt2):
    spec = language_model(model={"source": "m", "task": "causal-lm", "num_labels": None, "dtype": "float16"})
    tensors = saved(TaskModel.load(spec, tiny_gpt2), tmp_path / "out")
    assert "lm_head.weight" not in tensors
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert loaded.lm_head.weight.data_ptr() == loaded.transformer.wte.weight.data_ptr()
