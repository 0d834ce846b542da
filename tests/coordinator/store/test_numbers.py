"""Numbers from format to format: torch's bits, without torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coordinator.models.archive import Converted, Held
from coordinator.store.numbers import as_float32, as_stored

TORCH = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I64": torch.int64}


def numbers() -> np.ndarray:
    """Of every size, with ties, the smallest, the largest, infinities and what is no number."""
    chance = np.random.default_rng(0)
    bits = chance.integers(0, 2**32, 20_000, dtype=np.uint32)
    ties = (chance.integers(0, 2**16, 2_000, dtype=np.uint32) << 16) | 0x8000
    odd = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 65504.0, 65520.0, 1e-45, 3.4e38], np.float32)
    return np.concatenate([bits.view(np.float32), ties.view(np.float32), odd])


@pytest.mark.parametrize("wanted", ["BF16", "F16", "F32"])
def test_the_bits_are_torchs(wanted: str) -> None:
    values = numbers()
    theirs = torch.from_numpy(values.copy()).to(TORCH[wanted])
    ours = torch.frombuffer(bytearray(as_stored(values, wanted)), dtype=TORCH[wanted])
    assert torch.equal(ours.isnan(), theirs.isnan())
    whole = ~theirs.isnan()
    assert torch.equal(ours[whole], theirs[whole])
    again = as_float32(np.frombuffer(as_stored(values, wanted), np.uint8), wanted)
    assert np.array_equal(again[whole.numpy()], theirs.float().numpy()[whole.numpy()])


def test_counts_are_rounded() -> None:
    assert np.frombuffer(as_stored(np.array([2.9999, 3.5, 7.0], np.float32), "I64"), np.int64).tolist() == [3, 4, 7]


class Crumbs:
    """Bytes that come in pieces of odd lengths."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size_bytes = len(data)

    def read(self, skip=0):
        for start in range(skip, len(self.data), 7):
            yield self.data[start : start + 7]


def test_a_source_is_converted_whatever_its_pieces() -> None:
    values = np.random.default_rng(1).standard_normal(101).astype(np.float32)
    converted = Converted(Crumbs(values.tobytes()), "F32", "BF16")
    data = b"".join(converted.read())
    assert len(data) == converted.size_bytes == 202
    assert data == as_stored(values, "BF16") == b"".join(Converted(Held(values.tobytes()), "F32", "BF16").read())
    back = Converted(Held(data), "BF16", "F16")
    assert b"".join(back.read()) == as_stored(as_float32(np.frombuffer(data, np.uint8), "BF16"), "F16")
