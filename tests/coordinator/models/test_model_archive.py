"""Model archives: a real model's files, with the weights of a later version, as `from_pretrained` reads them."""

from __future__ import annotations

import io
import json
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

from coordinator.models.archive import ArchiveError
from coordinator.models.model_archive import ModelArchive
from coordinator.state.errors import NotReady
from coordinator.state.job_state import Job, Prepared, Status
from coordinator.state.round_state import ModelVersion
from coordinator.store.blob_store import GRACE_S
from coordinator.store.directory_blob_store import DirectoryBlobStore
from fedgalore.spec.census import Census
from fedgalore.spec.plan import Dense, Target, TrainingPlan
from tests.builders import a_job, put_bytes, whole_version

TRAINED = ("bert.encoder.layer.0.attention.self.query.weight", "classifier.weight", "classifier.bias")
PLAN = TrainingPlan(
    (Target(TRAINED[0], (16, 16), 2),),
    (Dense(TRAINED[1], (2, 16)), Dense(TRAINED[2], (2,))),
    census=Census({"linear": 256}, {"linear": 256}),
)


@pytest.fixture
def blobs(tmp_path: Path) -> DirectoryBlobStore:
    return DirectoryBlobStore(tmp_path / "blobs")


def tiny_model() -> BertForSequenceClassification:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    return BertForSequenceClassification(BertConfig(vocab_size=40, max_position_embeddings=16, **shape))


def prepared_job(
    folder: Path, blobs: DirectoryBlobStore, model: BertForSequenceClassification, shard: str, dtype: str = "base"
) -> Job:
    """A job as the aggregator prepares it, with the model's initial weights as version 0."""
    model.save_pretrained(folder, max_shard_size=shard)
    export = tuple((path.name, blobs.put_file(path)) for path in sorted(folder.iterdir()))
    weights = {name: model.state_dict()[name].contiguous() for name in TRAINED}
    version = store_version(folder, blobs, weights, 0)
    prepared = Prepared(PLAN.to_dict(), export, export, version, notes=("texts are cut",))
    return replace(a_job(model={"dtype": dtype}), status=Status.RUNNING, prepared=prepared, model=version)


def store_version(
    folder: Path, blobs: DirectoryBlobStore, weights: dict[str, torch.Tensor], version: int
) -> ModelVersion:
    path = folder.parent / "weights.safetensors"
    save_file(weights, path)
    return whole_version(version, blobs.put_file(path))


@pytest.mark.parametrize("shard", ["1GB", "8KB"])
def test_the_archive_is_the_model_with_the_versions_weights(
    shard: str, tmp_path: Path, blobs: DirectoryBlobStore
) -> None:
    model = tiny_model()
    job = prepared_job(tmp_path / "export", blobs, model, shard)
    assert job.prepared is not None
    shards = [name for name, _ in job.prepared.export if name.endswith(".safetensors")]
    assert (len(shards) > 1) == (shard == "8KB")

    torch.manual_seed(1)
    weights = {name: torch.randn_like(model.state_dict()[name]) for name in TRAINED}
    adapter = {f"{TRAINED[0]}/lora_A": torch.ones(2, 16)}  # some methods carry it beside the model
    version = store_version(tmp_path / "export", blobs, weights | adapter, 3)
    archive = ModelArchive(job, version, {"metrics": {"accuracy": 0.5}}, blobs)
    data = b"".join(archive)
    assert len(data) == archive.size_bytes

    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {name.split("/")[0] for name in tar.getnames()} == {"tiny"}
        tar.extraction_filter = getattr(tarfile, "data_filter", None)  # early releases of Python 3.11 lack it
        tar.extractall(tmp_path / "out")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out" / "tiny")
    for name, tensor in loaded.state_dict().items():
        expected = weights[name] if name in weights else model.state_dict()[name]
        assert torch.equal(tensor, expected), name
    card = json.loads((tmp_path / "out" / "tiny" / "fedgalore.json").read_text())
    assert (card["job"], card["model_version"], card["method"]["kind"]) == (job.id, 3, "fedgalore")
    assert card["evaluation"]["metrics"]["accuracy"] == 0.5
    assert card["notes"] == ["texts are cut"]
    assert card["trains"] == {"trained": {"linear": 256}, "parameters": {"linear": 256}, "ranks_lowered": {}}


@pytest.mark.parametrize(("dtype", "shard"), [("bfloat16", "8KB"), ("float16", "1GB"), ("float32", "1GB")])
def test_every_tensor_is_in_the_format_that_the_job_chose(
    dtype: str, shard: str, tmp_path: Path, blobs: DirectoryBlobStore
) -> None:
    model = tiny_model()
    model.register_buffer("count", torch.arange(3))  # no floating point number: it stays as it is
    job = prepared_job(tmp_path / "export", blobs, model, shard, dtype)
    torch.manual_seed(1)
    weights = {name: torch.randn_like(model.state_dict()[name]) for name in TRAINED}
    archive = ModelArchive(job, store_version(tmp_path / "export", blobs, weights, 1), None, blobs)
    data = b"".join(archive)
    assert len(data) == archive.size_bytes
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        tar.extraction_filter = getattr(tarfile, "data_filter", None)
        tar.extractall(tmp_path / "out")
    files = list((tmp_path / "out" / "tiny").glob("*.safetensors"))
    saved = {name: tensor for file in files for name, tensor in load_file(file).items()}
    assert saved.keys() == model.state_dict().keys()
    for name, tensor in saved.items():
        expected = weights.get(name, model.state_dict()[name])
        assert torch.equal(tensor, expected.to(getattr(torch, dtype)) if expected.is_floating_point() else expected)
    if shard == "8KB":
        index = json.loads((tmp_path / "out" / "tiny" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == sum(t.numel() * t.element_size() for t in saved.values())


@pytest.mark.parametrize(("dtype", "shard"), [("bfloat16", "8KB"), ("base", "1GB")])
def test_what_is_read_later_fits_what_was_read_before(
    dtype: str, shard: str, tmp_path: Path, blobs: DirectoryBlobStore
) -> None:
    job = prepared_job(tmp_path / "export", blobs, tiny_model(), shard, dtype)
    assert job.model is not None
    archive = ModelArchive(job, job.model, {"accuracy": 0.5}, blobs)
    whole = b"".join(archive)
    for skip in (0, 1, 511, 512, 5003, len(whole) // 2, len(whole) // 2 + 1, len(whole) - 1025, len(whole)):
        assert b"".join(archive.read(skip)) == whole[skip:], skip
    again, other = (ModelArchive(job, job.model, {"accuracy": value}, blobs) for value in (0.5, 0.75))
    assert again.etag == archive.etag != other.etag
    assert b"".join(again) == whole != b"".join(other)


def test_version_0_is_the_model_bit_for_bit(tmp_path: Path, blobs: DirectoryBlobStore) -> None:
    job = prepared_job(tmp_path / "export", blobs, tiny_model(), "1GB")
    assert job.model is not None
    with tarfile.open(fileobj=io.BytesIO(b"".join(ModelArchive(job, job.model, None, blobs)))) as tar:
        member = tar.extractfile("tiny/model.safetensors")
        assert member is not None
        assert member.read() == (tmp_path / "export" / "model.safetensors").read_bytes()


def test_a_version_that_is_collected_meanwhile_is_sent_to_the_end(tmp_path: Path, blobs: DirectoryBlobStore) -> None:
    job = prepared_job(tmp_path / "export", blobs, tiny_model(), "1GB")
    assert job.model is not None
    whole = b"".join(ModelArchive(job, job.model, None, blobs))
    archive = ModelArchive(job, job.model, None, blobs)
    chunks = iter(archive)
    started = next(chunks)
    blobs.sweep((), (), time.time() + GRACE_S + 1)
    assert not blobs.exists(job.model.weights.sha256)
    assert started + b"".join(chunks) == whole


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="counts open files")
def test_an_archive_that_nobody_reads_leaves_no_file_open(tmp_path: Path, blobs: DirectoryBlobStore) -> None:
    job = prepared_job(tmp_path / "export", blobs, tiny_model(), "1GB")
    assert job.model is not None

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = open_files()
    chunks = iter(ModelArchive(job, job.model, None, blobs))
    assert open_files() > before
    del chunks
    assert open_files() == before


def test_weights_that_do_not_fit_the_model_are_refused(tmp_path: Path, blobs: DirectoryBlobStore) -> None:
    model = tiny_model()
    job = prepared_job(tmp_path / "export", blobs, model, "1GB")
    assert job.prepared is not None
    weights = {name: model.state_dict()[name].contiguous() for name in TRAINED}
    bent = store_version(tmp_path / "export", blobs, weights | {"classifier.bias": torch.zeros(7)}, 1)
    with pytest.raises(ArchiveError, match=r"classifier\.bias is F32 \[2\]"):
        ModelArchive(job, bent, None, blobs)
    del weights["classifier.bias"]
    with pytest.raises(ArchiveError, match=r"classifier\.bias is not in the version's weights"):
        ModelArchive(job, store_version(tmp_path / "export", blobs, weights, 1), None, blobs)
    plan = TrainingPlan(PLAN.targets, (*PLAN.dense, Dense("elsewhere.weight", (2, 2))))
    stray = replace(job, prepared=replace(job.prepared, plan=plan.to_dict()))
    with pytest.raises(ArchiveError, match=r"no place for: elsewhere\.weight"):
        ModelArchive(stray, job.prepared.model, None, blobs)


def test_a_pending_job_has_no_model(blobs: DirectoryBlobStore) -> None:
    job = a_job()
    with pytest.raises(NotReady, match="not prepared yet"):
        ModelArchive(job, whole_version(0, put_bytes(blobs, b"")), None, blobs)
