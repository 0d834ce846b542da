"""Whether a tensor's values are such as a client can mean: finite, not negative where they are second moments.

Quantized tensors are checked as they are, by the bytes in `fedgalore.maths.quantization`.
"""

from __future__ import annotations

from math import isfinite, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedgalore.spec.quantization import FACTOR_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fedgalore.spec.plan import TensorSpec
    from fedgalore.spec.quantization import Quantization
    from protos.codec import Numbers

_DIVERGED = "holds NaN or infinite values: training diverged; lower local.learning_rate"
_NOT_NEGATIVE = ("/rms", "/residual")
_SLICE = 2**18  # items checked at a time
_WITHOUT_SIGN, _INFINITE, _MINUS_ZERO = 0x7FFF, 0x7C00, 0x8000  # a float16 as bits
_LARGEST = float(np.finfo(np.float32).max)


def fault_in(name: str, tensor: Numbers, spec: TensorSpec) -> str | None:
    """What is wrong with a tensor, in words that go on from its name; None: nothing. Reads it slice by slice."""
    if spec.quantization is not None:
        return _fault_in_code(tensor.view(np.uint8), spec.quantization)
    for part in _slices(tensor.reshape(-1)):
        if not np.isfinite(part).all():
            return _DIVERGED
        if name.endswith(_NOT_NEGATIVE) and (part < 0).any():
            return "holds negative values; second moments are at least 0"
    return None


def _fault_in_code(data: npt.NDArray[np.uint8], code: Quantization) -> str | None:
    """The factor and the scales are finite and at least 0; every entry is a float32, of a root its square too."""
    factor = float(data[:FACTOR_BYTES].view("<f4")[0])
    halves = data[FACTOR_BYTES : code.codes_at].view("<u2")  # compared as bits: much faster than as float16
    largest = max(int((part & _WITHOUT_SIGN).max()) for part in _slices(halves))
    if not isfinite(factor) or largest >= _INFINITE:
        return _DIVERGED
    if factor < 0 or (not code.has_signed_halves and any((part > _MINUS_ZERO).any() for part in _slices(halves))):
        return "has a factor, a scale or a root below 0; quantize it again"
    entry = factor * float(np.uint16(largest).view(np.float16)) * code.largest_code
    if entry > (_LARGEST if code.signed else sqrt(_LARGEST)):
        return _DIVERGED
    if code.signed and any(_leaves_range(part, code) for part in _slices(data[code.codes_at :])):
        return f"holds a code that is not from -{code.largest_code} to {code.largest_code}; quantize it again"
    return None


def _leaves_range(codes: npt.NDArray[np.uint8], code: Quantization) -> bool:
    if code.bits == 8:
        return bool((codes == 128).any())  # -128
    # low + 16 high, both from -7 to 7: a signed byte from -119 to 119, and never 8 more than a multiple of 16
    return bool((codes - np.uint8(120) <= 16).any() or (codes & 15 == 8).any())


def _slices(items: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, len(items), _SLICE):
        yield items[start : start + _SLICE]
