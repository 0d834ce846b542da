"""Model folders that are more than data: refused before transformers reads them, with the file and what to do."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from coordinator.aggregator import compute as aggregation
from coordinator.store.directory_blob_store import DirectoryBlobStore
from fedgalore.model.folder import ModelFolderError, check, check_links, check_name, files
from fedgalore.model.inputs import TaskError
from fedgalore.model.task import TaskModel
from tests.builders import blob_path
from tests.fedgalore.conftest import classifier, configure


class Planted:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(TaskError) as caught:
        TaskModel.load(classifier(), folder, **options)
    return str(caught.value)


def changed(path: Path, **changes: Any) -> None:
    """A JSON file with these keys in it, whether it was there or not."""
    document = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**document, **changes}))


def pickled(folder: Path) -> dict[str, torch.Tensor]:
    """The folder's weights as the pickle that torch.save makes, and what they are."""
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return weights


# --- pickle --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth", "model.pkl", "model.ckpt"])
def test_weights_in_a_pickle_are_refused(bert_copy: Path, tmp_path: Path, name: str) -> None:
    (bert_copy / "model.safetensors").unlink()
    (bert_copy / name).write_bytes(pickle.dumps(Planted(tmp_path / "planted")))
    message = refused(bert_copy)
    assert message.startswith(f"model.source: {name} is a pickle")
    assert "convert the weights to safetensors" in message
    assert not (tmp_path / "planted").exists()


def test_a_pickle_beside_safetensors_is_left_alone(bert_copy: Path, tmp_path: Path) -> None:
    (bert_copy / "pytorch_model.bin").write_bytes(pickle.dumps(Planted(tmp_path / "planted")))
    changed(bert_copy / "pytorch_model.bin.index.json", weight_map={"a": "pytorch_model-1.bin"})
    TaskModel.load(classifier(), bert_copy)
    assert not (tmp_path / "planted").exists()
    assert "pytorch_model.bin" not in [path.name for path in files(bert_copy)]


def test_a_pickle_that_safetensors_settings_would_let_in_is_refused(bert_copy: Path) -> None:
    """Transformers unpickles these files although it is asked for safetensors only."""
    weights = safetensors.torch.load_file(bert_copy / "model.safetensors")
    torch.save(weights, bert_copy / "part.bin")
    (bert_copy / "model.safetensors").rename(bert_copy / "other.safetensors")
    index = {"metadata": {}, "weight_map": dict.fromkeys(weights, "part.bin")}
    (bert_copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model.safetensors.index.json, weight_map: 'part.bin' is no file of a model" in refused(bert_copy)

    (bert_copy / "model.safetensors.index.json").unlink()
    (bert_copy / "other.safetensors").rename(bert_copy / "model.safetensors")
    (bert_copy / "part.bin").rename(bert_copy / "adapter_model.bin")
    changed(bert_copy / "config.json", transformers_weights="adapter_model.bin")
    assert "config.json, transformers_weights: 'adapter_model.bin' is no file of a model" in refused(bert_copy)


def test_an_operator_may_allow_a_pickle_which_is_then_read_without_running_code(
    bert_copy: Path, tiny_bert: Path, tmp_path: Path
) -> None:
    expected = TaskModel.load(classifier(), tiny_bert).weights()
    pickled(bert_copy)
    weights = TaskModel.load(classifier(), bert_copy, allow_pickle=True).weights()
    assert all(torch.equal(weights[name], weight) for name, weight in expected.items())
    torch.save({"a": Planted(tmp_path / "planted")}, bert_copy / "pytorch_model.bin")
    assert refused(bert_copy, allow_pickle=True).startswith("model.source: ")
    assert not (tmp_path / "planted").exists()


def test_sites_are_sent_safetensors_when_a_pickle_was_allowed(bert_copy: Path, tmp_path: Path) -> None:
    pickled(bert_copy)
    spec = classifier(model={"source": str(bert_copy), "num_labels": 3})
    blobs = DirectoryBlobStore(tmp_path / "blobs")
    with pytest.raises(aggregation.PreparationError, match=r"model\.source: pytorch_model\.bin is a pickle"):
        aggregation.prepare(spec, blobs)
    prepared = aggregation.prepare(spec, blobs, allow_pickle=True)
    site = tmp_path / "site"
    site.mkdir()
    for name, blob in prepared.base_model:
        check_name(name)
        shutil.copy(blob_path(blobs, blob.sha256), site / name)
    at_the_site, here = TaskModel.load(spec, site), TaskModel.load(spec, bert_copy, allow_pickle=True)
    assert at_the_site.plan == here.plan
    weights = at_the_site.weights()
    assert all(torch.equal(weights[name], weight) for name, weight in here.weights().items())


# --- code ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
def test_a_folder_that_asks_for_code_is_refused(bert_copy: Path, tmp_path: Path, file: str) -> None:
    (bert_copy / "modeling_own.py").write_text(f"import os\nos.mkdir({str(tmp_path / 'planted')!r})\n")
    changed(bert_copy / file, auto_map={"AutoModel": "modeling_own.Own", "AutoTokenizer": ["modeling_own.Own", None]})
    assert refused(bert_copy).startswith(f"model.source: {file} asks for code by auto_map, which is never run; take")
    assert not (tmp_path / "planted").exists()


def test_code_that_nothing_asks_for_is_left_alone(bert_copy: Path) -> None:
    (bert_copy / "train_script.py").write_text("raise SystemExit\n")
    TaskModel.load(classifier(), bert_copy)
    assert "train_script.py" not in [path.name for path in files(bert_copy)]


def test_an_adapter_is_refused(bert_copy: Path) -> None:
    changed(bert_copy / "adapter_config.json", base_model_name_or_path="/elsewhere")
    assert "adapter_config.json names another model; merge the adapter" in refused(bert_copy)


# --- files elsewhere -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "changes", "words"),
    [
        ("tokenizer_config.json", {"vocab_file": "/etc/passwd"}, "names a file by 'vocab_file'; take the key out"),
        ("tokenizer_config.json", {"vocab": "/etc/passwd"}, "names a file by 'vocab'"),
        ("tokenizer_config.json", {"merges": "secret.txt"}, "names a file by 'merges'"),
        ("tokenizer_config.json", {"sp_model_kwargs": {"model_file": "x"}}, "names a file by 'model_file'"),
        ("tokenizer_config.json", {"init_inputs": ["/etc/passwd"]}, "names a file by 'init_inputs'"),
        ("special_tokens_map.json", {"vocab_file": "/etc/passwd"}, "names a file by 'vocab_file'"),
        ("config.json", {"configuration_files": ["../config.4.0.0.json"]}, "'../config.4.0.0.json' is not the plain"),
        ("config.json", {"transformers_weights": "../b/model.safetensors"}, "is not the plain name of a file"),
        ("model.safetensors.index.json", {"weight_map": {"a": "../b/model.safetensors"}}, "is not the plain name"),
        ("model.safetensors.index.json", {"weight_map": {"a": "/b/model.safetensors"}}, "is not the plain name"),
    ],
)
def test_a_folder_that_names_files_elsewhere_is_refused(
    bert_copy: Path, file: str, changes: dict[str, Any], words: str
) -> None:
    changed(bert_copy / file, **changes)
    message = refused(bert_copy)
    assert message.startswith(f"model.source: {file}")
    assert words in message


def test_what_transformers_ignores_is_no_reason_to_refuse(bert_copy: Path) -> None:
    changed(
        bert_copy / "tokenizer_config.json",
        special_tokens_map_file="/root/.cache/x",
        name_or_path="a/b",
        vocab_file=None,
        init_inputs=[],
        auto_map={},
    )
    (bert_copy / "notes.json").write_text("no JSON")
    (bert_copy / "deep.json").write_text("[" * 100_000)
    TaskModel.load(classifier(), bert_copy)


def test_a_link_out_of_the_folder_is_refused_and_a_link_inside_is_not(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_text("{}")
    (folder / "config.json").write_text("{}")
    (folder / "same.json").symlink_to("config.json")
    (folder / "notes.md").symlink_to(tmp_path / "secret")  # not read
    check_links(folder)
    (tmp_path / "by-another-name").symlink_to("model")
    check_links(tmp_path / "by-another-name")
    (folder / "vocab.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(ModelFolderError, match=r"vocab\.txt in .* is a link that leads out of it; copy the file"):
        check_links(folder)


def test_links_of_a_hub_s_cache_are_followed_to_its_blobs_only(tmp_path: Path) -> None:
    """As huggingface_hub lays them out: by way of the model's blobs, which may be links to those of all models."""
    repository = tmp_path / "hub" / "models--org--name"
    snapshot, blobs = repository / "snapshots" / ("0" * 40), repository / "blobs"
    shared = tmp_path / "hub" / "blobs" / "ab"
    for folder in (snapshot, blobs, shared):
        folder.mkdir(parents=True)
    (blobs / "1").write_text("{}")
    (shared / "abc").write_text("weights")
    (blobs / "2").symlink_to("../../blobs/ab/abc")
    (snapshot / "config.json").symlink_to("../../blobs/1")
    (snapshot / "model.safetensors").symlink_to("../../blobs/2")
    check_links(snapshot)
    (tmp_path / "hub" / "token.txt").write_text("secret")
    (snapshot / "token.txt").symlink_to("../../../token.txt")
    with pytest.raises(ModelFolderError, match=r"token\.txt"):
        check_links(snapshot)


# --- names ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "model-00001-of-00002.safetensors", "spiece.model", "chat.jinja"])
def test_names_of_a_model_s_files(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a.json", "/a.json", "a/b.json", "a/../b.json", "./a.json", "a.json/", "a\\b.json", "a\0.json"]
    + ["a\n.json", "\ud800.json", ".a.json", "x" * 128 + ".json", "ß" * 70 + ".json", "modeling.py", "model.bin"]
    + ["model.safetensors.exe", "lib.so", "a.JSON", "json"],
)
def test_names_that_no_file_of_a_model_has_are_refused(name: str) -> None:
    with pytest.raises(ModelFolderError) as caught:
        check_name(name)
    assert str(caught.value).isprintable()


def test_files_of_other_kinds_are_no_part_of_a_model(bert_copy: Path) -> None:
    before = files(bert_copy)
    for name in ("a.bin", "b.py", ".c.json", "README.md"):
        (bert_copy / name).write_text("")
    (bert_copy / "onnx.json").mkdir()
    assert files(bert_copy) == before
    check(bert_copy)


def test_quantized_weights_are_refused_in_words(bert_copy: Path) -> None:
    configure(bert_copy, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(ModelFolderError, match="quantized weights cannot be trained; dequantize"):
        check(bert_copy)
    configure(bert_copy, quantization_config=None)
    check(bert_copy)
