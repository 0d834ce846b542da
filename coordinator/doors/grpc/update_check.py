"""Whether an update is valid: size, header, metadata and values are each checked as soon as they are known."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.doors.grpc.value_check import fault_in
from coordinator.state.errors import InvalidUpdate
from coordinator.state.limits import check_metrics
from fedgalore.spec.layout import UPDATE_FORMAT
from fedgalore.spec.plan import TensorSpec
from protos.codec import LENGTH_BYTES, CodecError, Header, TensorFile, encode_header, header_length, parse_header

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER_SLACK_BYTES = 2**16  # for metadata, padding and another order of keys
_COUNT = re.compile(r"[0-9]{1,15}")


@dataclass(frozen=True)
class Contents:
    """What the round reads in an update's metadata."""

    num_examples: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Manifest:
    """What the update of a client in a round must be.

    `version`: that the round is to make. It stands in the file as its `round`, which counts committed rounds: so the
    update of an abandoned round is that of the next try, byte for byte. `tensors` is
    `fedgalore.spec.layout.update_tensors`. `least_decay` is the factor that the job's weight decay leaves of a weight;
    with a smaller factor a client could shrink the model.
    """

    job_id: str
    version: int
    client: str
    tensors: dict[str, TensorSpec]
    least_decay: float = 0.0

    @property
    def data_bytes(self) -> int:
        """Bytes of all tensors, without the file's header."""
        return sum(spec.size_bytes for spec in self.tensors.values())

    @property
    def most_header_bytes(self) -> int:
        """The most bytes that a valid file has before its data."""
        return len(encode_header(self.tensors, {})) + HEADER_SLACK_BYTES

    def check_size(self, size_bytes: int) -> None:
        """Checks the announced size, before any byte has come.

        Raises:
            InvalidUpdate: no update of this round has this size.
        """
        least, most = self.data_bytes + LENGTH_BYTES + 1, self.data_bytes + self.most_header_bytes
        if not least <= size_bytes <= most:
            raise InvalidUpdate(
                f"blob.size_bytes: {size_bytes}; an update of this round has {least} to {most} bytes: "
                "build it from the plan of this task"
            )

    def header_bytes(self, prefix: bytes) -> int:
        """Bytes before the data, of a file that starts with `prefix`.

        Args:
            prefix: at least the first 8 bytes of the file.

        Raises:
            InvalidUpdate: `prefix` starts no header, or a longer header than an update of this round has.
        """
        try:
            total = LENGTH_BYTES + header_length(prefix)
        except CodecError as error:
            raise InvalidUpdate(f"{error}; send an update as a safetensors file") from error
        if total > self.most_header_bytes:
            raise InvalidUpdate(
                f"the header has {total} bytes; at most {self.most_header_bytes} are allowed: shorten the metrics"
            )
        return total

    def check_header(self, data: bytes, size_bytes: int) -> Contents:
        """Checks that the header names exactly the tensors of this round, and that its metadata and the size fit.

        Args:
            data: the file's bytes before the tensors.
            size_bytes: the announced size of the file.

        Raises:
            InvalidUpdate: the message names the tensor or the metadata field, and what it should be.
        """
        try:
            header = parse_header(data)
        except CodecError as error:
            raise InvalidUpdate(str(error)) from error
        self._check_tensors(header)
        contents = self._check_metadata(header.metadata)
        if header.size_bytes != size_bytes:
            raise InvalidUpdate(
                f"blob.size_bytes: {size_bytes}; according to its header the file has {header.size_bytes} bytes"
            )
        return contents

    def _check_tensors(self, header: Header) -> None:
        for name, spec in self.tensors.items():
            entry = header.tensors.get(name)
            if entry is None:
                raise InvalidUpdate(f"tensor {name!r} is missing; send it with shape {list(spec.shape)}")
            if entry.spec != spec:
                raise InvalidUpdate(
                    f"tensor {name!r} is {entry.spec.dtype} {list(entry.spec.shape)}; "
                    f"this job's plan asks for {spec.dtype} {list(spec.shape)}"
                )
        extra = sorted(header.tensors.keys() - self.tensors.keys())
        if extra:
            raise InvalidUpdate(f"tensor {extra[0]!r} is not in this job's plan; leave it out")

    def _check_metadata(self, metadata: Mapping[str, str]) -> Contents:
        expected = {"format": UPDATE_FORMAT, "job": self.job_id, "round": str(self.version), "client": self.client}
        needed = {*expected, "num_examples", "decay", "metrics"}
        if metadata.keys() != needed:
            name = min(metadata.keys() ^ needed)
            raise InvalidUpdate(f"metadata.{name[:64]}: {'missing' if name in needed else 'unknown; leave it out'}")
        for name, value in expected.items():
            if metadata[name] != value:
                raise InvalidUpdate(f"metadata.{name}: {metadata[name][:64]!r}; this upload is for {value!r}")
        if not _COUNT.fullmatch(metadata["num_examples"]) or int(metadata["num_examples"]) < 1:
            raise InvalidUpdate(f"metadata.num_examples: {metadata['num_examples'][:64]!r}; at least 1 is needed")
        if not max(self.least_decay, 1e-300) <= _number(metadata["decay"]) <= 1:
            raise InvalidUpdate(
                f"metadata.decay: {metadata['decay'][:64]!r}; by this job's weight decay it is at least "
                f"{self.least_decay:.6g} and at most 1"
            )
        return Contents(int(metadata["num_examples"]), _metrics(metadata["metrics"]))

    def check_values(self, file: TensorFile) -> None:
        """Checks that all values are finite, second moments not negative, and codes such as an encoder writes.

        Raises:
            InvalidUpdate: the message names the first tensor for which this is not so.
        """
        for name, spec in self.tensors.items():
            if (fault := fault_in(name, file.tensor(name), spec)) is not None:
                raise InvalidUpdate(f"tensor {name!r} {fault}")


def _number(text: str) -> float:
    """The text as a float; NaN where it is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _metrics(text: str) -> dict[str, float]:
    try:
        metrics = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidUpdate("metadata.metrics: not JSON; send an object of numbers") from error
    if not isinstance(metrics, dict):
        raise InvalidUpdate("metadata.metrics: send a JSON object of numbers")
    for name, value in metrics.items():
        if type(value) not in (int, float):
            raise InvalidUpdate(f"metadata.metrics.{name[:64]}: a finite number is needed")
    check_metrics("metadata.metrics", metrics)  # before the conversion: not every whole number fits a float
    return {name: float(value) for name, value in metrics.items()}
