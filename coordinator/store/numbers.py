"""Numbers of a file from one format into another, in numpy: the doors do without torch.

Rounds to nearest, ties to even, as torch does, so that both give the same bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from protos.codec import Float32

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}  # bytes of a number
FLOATS = ("F64", "F32", "F16", "BF16")
_NUMPY = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}
_NOT_A_NUMBER = np.uint16(0x7FC0)


def as_float32(data: npt.NDArray[np.uint8], stored: str) -> Float32:
    """The numbers in these bytes, flat; a view where they are float32.

    Args:
        stored: safetensors' name of their format, of `FLOATS`.
    """
    if stored == "BF16":
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return data.view(_NUMPY[stored]).astype(np.float32, copy=False)


def as_stored(values: Float32, stored: str) -> bytes:
    """Flat numbers as the bytes of another format, of `WIDTHS`. Too large ones become infinite."""
    if stored == "BF16":
        bits = values.view(np.uint32)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")
        return np.where(np.isnan(values), _NOT_A_NUMBER, rounded).tobytes()
    if stored.startswith("I"):
        return np.rint(values).astype(_NUMPY[stored]).tobytes()
    with np.errstate(over="ignore"):
        return values.astype(_NUMPY[stored]).tobytes()


def in_format(data: bytes, stored: str, wanted: str) -> bytes:
    """The numbers in these bytes, of a format of `FLOATS`, as the bytes of another one, of `WIDTHS`."""
    return as_stored(as_float32(np.frombuffer(data, np.uint8), stored), wanted)
