"""A prepared model beside its base model: only what the base lacks is stored again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from coordinator.aggregator.base_copies import BaseModel
from coordinator.aggregator.weights import write_weights
from coordinator.store.directory_blob_store import DirectoryBlobStore
from fedgalore.process.blob_ref import BlobRef
from fedgalore.spec.layout import weights_tensors
from fedgalore.spec.plan import Buffer, Dense, Target, TrainingPlan
from tests.builders import a_spec, content_of, put_bytes

SPEC = a_spec(method={"kind": "fedavg"})
PLAN = TrainingPlan(
    (
        Target("layer.weight", (64, 96), 0),
        *(Target(f"experts.{i}", (32, 64), 0, part_of="experts", whole=(3, 32, 64)) for i in range(3)),
    ),
    (Dense("head.weight", (2, 64)), Dense("zero.bias", (64,), head=False)),
    (Buffer("norm.seen", ()), Buffer("norm.mean", (64,))),
)


def drawn(dtype: torch.dtype) -> dict[str, Tensor]:
    torch.manual_seed(0)
    tensors = {
        "layer.weight": torch.randn(64, 96),
        "experts": torch.randn(3, 32, 64),
        "zero.bias": torch.zeros(64),
        "norm.mean": torch.randn(64),
        "embeddings": torch.randn(500, 64),
    }
    return {name: tensor.to(dtype) for name, tensor in tensors.items()} | {"norm.seen": torch.tensor(7)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("shards", [1, 3])
def test_what_the_base_holds_is_not_stored_again(tmp_path: Path, dtype: torch.dtype, shards: int) -> None:
    blobs, tensors = DirectoryBlobStore(tmp_path / "blobs"), drawn(dtype)
    base = []
    for number in range(shards):  # under the names of an older version, which knows no head
        names = [name for index, name in enumerate(tensors) if index % shards == number]
        save_file({f"model.{name}": tensors[name] for name in names}, tmp_path / "shard")
        base.append((f"{number}.safetensors", blobs.put_file(tmp_path / "shard", move=True)))
    held = on_disk(tmp_path)
    model = BaseModel((("config.json", put_bytes(blobs, b"{}")), *base), blobs)

    export = {name: tensor.float() if dtype is torch.float64 else tensor for name, tensor in tensors.items()}
    head = torch.randn(2, 64)
    save_file(export | {"head.weight": head.to(export["experts"].dtype)}, tmp_path / "export", {"format": "pt"})
    put(blobs, model, tmp_path / "export")
    if dtype is not torch.float64:  # whose export is in another format
        assert on_disk(tmp_path) - held < 3000

    weights = {name: tensor.float() for name, tensor in export.items() if name not in ("embeddings", "experts")}
    weights |= {f"experts.{i}": export["experts"][i].float() for i in range(3)} | {"head.weight": head}
    write_weights(tmp_path / "weights", weights.items(), 0, PLAN, SPEC)
    held, content = on_disk(tmp_path), (tmp_path / "weights").read_bytes()
    blob = blobs.put_file(tmp_path / "weights", move=True, copies=model.copies_in_weights(tmp_path / "weights", PLAN))
    assert content_of(blobs, blob.sha256) == content
    assert set(weights_tensors(SPEC, PLAN, 0)) == weights.keys()
    if dtype is not torch.float64:
        assert on_disk(tmp_path) - held < 4000


def put(blobs: DirectoryBlobStore, model: BaseModel, path: Path) -> BlobRef:
    content = path.read_bytes()
    blob = blobs.put_file(path, copies=model.copies_in_file(path))
    assert content_of(blobs, blob.sha256) == content
    return blob


def on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / "blobs").rglob("*") if path.is_file())
