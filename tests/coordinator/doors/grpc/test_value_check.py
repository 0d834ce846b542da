"""Quantized tensors at the door: what an encoder writes passes, and each way to spoil it is refused by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from coordinator.doors.grpc.update_check import Manifest
from coordinator.doors.grpc.value_check import fault_in
from coordinator.state.errors import InvalidUpdate
from fedgalore.maths.quantization import quantize
from fedgalore.spec.method import float32, quantized
from protos.codec import open_update
from tests.coordinator.doors.grpc.updates import Sample

SHAPE = (3, 50)  # 150 entries in three blocks
WAYS = [(bits, signed) for bits in (4, 8, 16) for signed in (True, False)]
LARGEST = np.finfo(np.float32).max


def coded(bits: int, signed: bool) -> np.ndarray:
    matrix = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    return quantize(matrix if signed else matrix.abs(), bits, signed=signed).numpy()


def check(folder: Path, bits: int, signed: bool, data: np.ndarray) -> None:
    tensors = float32(first=(2, 2)) | quantized(bits, signed=signed, code=SHAPE)
    content = replace(Sample(), tensors=tensors, values={"code": data}).bytes_in(folder)
    manifest = Manifest("job-1", 3, "site-a", tensors)
    manifest.check_size(len(content))
    file = open_update(folder / "sample.safetensors")
    manifest.check_header(content[: file.header.data_start], len(content))
    manifest.check_values(file)


def half(number: float) -> bytes:
    return np.float16(number).tobytes()


def single(number: float) -> bytes:
    return np.float32(number).tobytes()


@pytest.mark.parametrize(("bits", "signed"), WAYS)
def test_what_an_encoder_writes_passes(tmp_path: Path, bits: int, signed: bool) -> None:
    check(tmp_path, bits, signed, coded(bits, signed))
    check(tmp_path, bits, signed, np.zeros_like(coded(bits, signed)))


DIVERGED = "holds NaN or infinite values"
BELOW_0 = "below 0; quantize it again"
FAULTS = [
    *((bits, signed, 0, single(value), DIVERGED) for bits, signed in WAYS for value in (np.nan, np.inf, -np.inf)),
    *((bits, signed, 8, half(value), DIVERGED) for bits, signed in WAYS for value in (np.nan, np.inf, -np.inf)),
    *((bits, signed, 0, single(-1), BELOW_0) for bits, signed in WAYS),
    *((bits, signed, 8, half(-1e-7), BELOW_0) for bits, signed in WAYS if (bits, signed) != (16, True)),
    *((bits, signed, 0, single(LARGEST / 2), DIVERGED) for bits, signed in WAYS),  # finite, but not times a scale
    *((bits, False, 0, single(1e17), DIVERGED) for bits in (4, 8, 16)),  # the square of the root is not
    *((4, True, -1, bytes([byte]), "code that is not from -7 to 7") for byte in (8, 120, 127, 128, 136, 0xF8)),
    (8, True, -1, bytes([128]), "code that is not from -127 to 127"),
]


@pytest.mark.parametrize(("bits", "signed", "at", "content", "reason"), FAULTS)
def test_bytes_that_no_encoder_writes_are_refused(
    tmp_path: Path, bits: int, signed: bool, at: int, content: bytes, reason: str
) -> None:
    data = coded(bits, signed)
    start = at % len(data)
    data[start : start + len(content)] = np.frombuffer(content, np.uint8)
    with pytest.raises(InvalidUpdate, match=f"tensor 'code' .*{reason}"):
        check(tmp_path, bits, signed, data)


def test_exactly_the_pairs_of_allowed_codes_pass_at_4_bits() -> None:
    allowed = {(low + 16 * high) % 256 for low in range(-7, 8) for high in range(-7, 8)}
    (spec,) = quantized(4, code=SHAPE).values()
    data = coded(4, True)
    for byte in range(256):
        data[-1] = byte
        assert (fault_in("code", data, spec) is None) == (byte in allowed)


def test_a_code_of_another_length_is_refused_from_the_header(tmp_path: Path) -> None:
    expected = quantized(4, code=SHAPE)
    for tensors in (quantized(8, code=SHAPE), quantized(4, code=(3, 70)), float32(code=SHAPE)):
        content = replace(Sample(), tensors=tensors).bytes_in(tmp_path)
        data_start = open_update(tmp_path / "sample.safetensors").header.data_start
        with pytest.raises(InvalidUpdate, match=r"tensor 'code' is .*; this job's plan asks for U8 \[106\]"):
            Manifest("job-1", 3, "site-a", expected).check_header(content[:data_start], len(content))
