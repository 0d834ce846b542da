"""Weights in 16 bits as float32 files, which take no memory where they are mapped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from fedgalore.model.task import TaskModel
from fedgalore.model.widened import widened
from tests.fedgalore.conftest import language_model


@pytest.fixture(scope="module")
def sharded(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with grouped queries in bfloat16, in several files."""
    folder = tmp_path_factory.mktemp("sharded")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tiny_gpt2)
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, eos_token_id=tokenizer.eos_token_id, pad_token_id=None, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(1)
    transformers.LlamaForCausalLM(config).bfloat16().save_pretrained(folder, max_shard_size="60kB")
    tokenizer.save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


def test_the_numbers_are_the_same_file_by_file(sharded: Path, tmp_path: Path) -> None:
    assert widened(sharded, tmp_path / "wide") == tmp_path / "wide"
    assert {path.name for path in (tmp_path / "wide").iterdir()} == {path.name for path in sharded.iterdir()}
    for path in sharded.glob("*.safetensors"):
        narrow, wide = load_file(path), load_file(tmp_path / "wide" / path.name)
        assert narrow.keys() == wide.keys()
        assert all(torch.equal(wide[name], tensor.float()) for name, tensor in narrow.items())
        assert {tensor.dtype for tensor in wide.values()} == {torch.float32}


def test_what_is_no_number_of_16_bits_stays_and_without_any_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    tensors = {"a": torch.arange(6).view(2, 3), "b": torch.ones(0), "c": torch.randn(()), "d": torch.randn(3).half()}
    save_file(tensors, folder / "model.safetensors")
    assert widened(folder, tmp_path / "wide") is not None
    wide = load_file(tmp_path / "wide" / "model.safetensors")
    assert all(torch.equal(wide[name], tensor.to(wide[name].dtype)) for name, tensor in tensors.items())
    assert (wide["a"].dtype, wide["d"].dtype) == (torch.int64, torch.float32)
    del tensors["d"]
    save_file(tensors, folder / "model.safetensors")
    assert widened(folder, tmp_path / "other") is None
    assert not (tmp_path / "other").exists()


def test_a_model_of_16_bits_is_mapped_stays_so_and_is_written_as_one_in_memory(sharded: Path, tmp_path: Path) -> None:
    spec = language_model()
    task, plain = TaskModel.load(spec, sharded, scratch=tmp_path / "float32"), TaskModel.load(spec, sharded)
    task.round_weights()
    mapped = [
        range(*(int(part, 16) for part in line.split()[0].split("-")))
        for line in Path("/proc/self/maps").read_text().splitlines()
        if str(tmp_path / "float32") in line
    ]
    assert all(any(weight.data_ptr() in part for part in mapped) for weight in task.model.parameters())
    dirty = [line for line in _smaps(tmp_path / "float32") if line.startswith("Anonymous:")]
    assert {line.split()[1] for line in dirty} == {"0"}  # nothing of it was written to
    for name, weight in plain.weights().items():
        assert torch.equal(task.weight(name), weight)
    for each, to in ((task, "mapped"), (plain, "plain")):
        each.save(tmp_path / to, as_base=True)
    assert {path.name: path.read_bytes() for path in (tmp_path / "mapped").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()
    }


def _smaps(folder: Path) -> list[str]:
    """What the kernel says of the files that are mapped from a folder."""
    lines, inside = [], False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in line.split()[0]:
            inside = str(folder) in line
        elif inside:
            lines.append(line)
    return lines
