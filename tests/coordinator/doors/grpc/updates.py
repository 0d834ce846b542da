"""Valid updates of the small job of `tests.builders`, to send as they are or to spoil."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from coordinator.doors.grpc.update_check import Manifest
from fedgalore.process.blob_ref import BlobRef
from fedgalore.spec.layout import UPDATE_FORMAT, update_tensors
from fedgalore.spec.plan import TensorSpec
from protos.codec import SafetensorsWriter
from tests.builders import a_plan, a_spec

DTYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8}
EXACTLY = {"bits": 32}  # numbers that a test can spoil; codes: test_value_check.py
TENSORS = update_tensors(a_spec(wire=EXACTLY), a_plan(), "site-a", 3)


def full(tensor: TensorSpec, value: float) -> np.ndarray:
    return np.full(tensor.shape, value, DTYPES[tensor.dtype])


@dataclass(frozen=True)
class Sample:
    """An update of one client; `bytes_in` makes the file."""

    job_id: str = "job-1"
    round: int = 3
    client: str = "site-a"
    tensors: dict[str, TensorSpec] = field(default_factory=lambda: dict(TENSORS))
    values: dict[str, np.ndarray] = field(default_factory=dict)
    metadata: dict[str, str | None] = field(default_factory=dict)

    @property
    def manifest(self) -> Manifest:
        return Manifest(self.job_id, self.round, self.client, TENSORS)

    def with_value(self, name: str, value: float) -> Sample:
        """The last element of a tensor set to `value`."""
        array = full(self.tensors[name], 1.0)
        array.reshape(-1)[-1] = value
        return replace(self, values={name: array})

    def bytes_in(self, folder: Path) -> bytes:
        metadata = {
            "format": UPDATE_FORMAT,
            "job": self.job_id,
            "round": str(self.round),
            "client": self.client,
            "num_examples": "1200",
            "decay": "1.0",
            "metrics": '{"loss": 0.5, "steps": 10}',
            **self.metadata,
        }
        path = folder / "sample.safetensors"
        with SafetensorsWriter(path, self.tensors, {k: v for k, v in metadata.items() if v is not None}) as writer:
            for name, tensor in self.tensors.items():
                writer.write(name, self.values.get(name, full(tensor, 1.0)))
        return path.read_bytes()


def ref(content: bytes) -> BlobRef:
    return BlobRef(hashlib.sha256(content).hexdigest(), len(content))
