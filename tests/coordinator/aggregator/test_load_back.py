"""A job's download and adapter, made of blobs and loaded back. Models are real and tiny."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, load_file, save_file

from coordinator.aggregator.compute import PreparationError, prepare
from coordinator.aggregator.load_back import differences
from coordinator.aggregator.stored_model import base_model, load_version
from coordinator.state.job_state import Job, Status
from coordinator.store.directory_blob_store import DirectoryBlobStore
from fedgalore.spec.plan import TrainingPlan
from tests.builders import a_job, content_of, whole_version
from tests.fedgalore.conftest import tiny_bert, tiny_gpt2  # noqa: F401  # fixtures

CPU = torch.device("cpu")
# PEFT 0.21 asks transformers 5 for it.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def blobs(tmp_path: Path) -> DirectoryBlobStore:
    return DirectoryBlobStore(tmp_path / "blobs")


def trained(blobs: DirectoryBlobStore, folder: Path, source: Path, **sections: Any) -> Job:
    """A job at a version whose targets have changed by rank 2, as two of LoRA's adapters would."""
    model = {"source": str(source), "num_labels": 3} | sections.pop("model", {})
    job = a_job(model=model, **sections)
    prepared = prepare(job.parsed, blobs)
    weights = load(content_of(blobs, prepared.model.weights.sha256))
    torch.manual_seed(0)
    for target in TrainingPlan.from_dict(prepared.plan).targets:
        rows, columns = target.shape
        weights[target.name] += 0.05 * torch.randn(rows, 2) @ torch.randn(2, columns)
    save_file(weights, folder / "weights")
    version = whole_version(1, blobs.put_file(folder / "weights"))
    return replace(job, status=Status.RUNNING, prepared=prepared, model=version)


def file_of(address: int) -> str:
    """The file that memory is mapped from; empty where it is from none."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        place, *_, named = [*line.split(maxsplit=5), ""][:6]
        start, end = (int(each, 16) for each in place.split("-"))
        if start <= address < end:
            return named
    return ""


def test_a_version_is_loaded_without_holding_what_is_trained(
    blobs: DirectoryBlobStore,
    tmp_path: Path,
    tiny_bert: Path,  # noqa: F811
) -> None:
    job = trained(blobs, tmp_path, tiny_bert)
    assert job.prepared is not None
    assert job.model is not None
    with base_model(job.prepared, blobs) as base:
        task = load_version(job.parsed, base, job.model, blobs, CPU)
    weights = load(content_of(blobs, job.model.weights.sha256 if job.model.weights else ""))
    for name, parameter in task.trained().items():
        assert torch.equal(parameter, weights[name])
        assert "/trained/" in file_of(parameter.data_ptr())
    task.load_weights({name: torch.zeros_like(tensor) for name, tensor in weights.items()})
    assert not any(bool(parameter.any()) for parameter in task.trained().values())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fedgalore", "fedit", "flora"])
@pytest.mark.parametrize(
    ("source", "model"),
    [
        ("tiny_bert", {}),
        ("tiny_bert", {"dtype": "bfloat16"}),
        ("tiny_gpt2", {"task": "causal-lm", "num_labels": None}),
    ],
    ids=["bert", "half", "gpt2"],
)
def test_download_and_adapter_answer_as_the_model_does(
    kind: str,
    source: str,
    model: dict[str, Any],
    blobs: DirectoryBlobStore,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    job = trained(blobs, tmp_path, request.getfixturevalue(source), model=model, method={"kind": kind, "rank": 4})
    assert differences(job, blobs, CPU) is None


def test_a_template_that_changed_is_another_model(
    blobs: DirectoryBlobStore,
    tmp_path: Path,
    tiny_bert: Path,  # noqa: F811
) -> None:
    job = trained(blobs, tmp_path, tiny_bert)
    assert job.prepared is not None
    file = dict(job.prepared.export)["model.safetensors"]
    weights = load(content_of(blobs, file.sha256))
    weights["bert.embeddings.LayerNorm.weight"] *= 2
    save_file(weights, tmp_path / "other", {"format": "pt"})
    files = tuple(
        (name, blobs.put_file(tmp_path / "other") if name == "model.safetensors" else blob)
        for name, blob in job.prepared.export
    )
    job = replace(job, prepared=replace(job.prepared, export=files))
    words = differences(job, blobs, CPU)
    assert words is not None
    assert words.startswith("version 1 is downloaded, and its logits differ by up to ")


def test_a_model_whose_download_would_be_another_is_refused_at_once(
    blobs: DirectoryBlobStore,
    tmp_path: Path,
    tiny_bert: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fedgalore.model.task import TaskModel

    save = TaskModel.save

    def spoilt(self: TaskModel, folder: Path, **options: Any) -> None:
        save(self, folder, **options)
        weights = load_file(folder / "model.safetensors")
        weights["bert.embeddings.LayerNorm.weight"] *= 2
        save_file(weights, folder / "model.safetensors", {"format": "pt"})

    monkeypatch.setattr(TaskModel, "save", spoilt)
    with pytest.raises(PreparationError, match=r"version 0 was loaded back as a download would be, and its logits"):
        prepare(a_job(model={"source": str(tiny_bert), "num_labels": 3}).parsed, blobs)
