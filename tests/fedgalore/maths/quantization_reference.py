"""Reads quantized bytes by the table in `fedgalore.maths.quantization`, number by number, in float64."""

from __future__ import annotations

from math import ceil, prod

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def numbers_in(
    data: npt.NDArray[np.uint8], shape: tuple[int, int], bits: int, axis: int, signed: bool
) -> tuple[Doubles, Doubles]:
    """The matrix, and the step that each entry was rounded by."""
    count, rest = prod(shape), data.tobytes()
    factor = np.float64(np.frombuffer(rest[:4], "<f4")[0])
    if bits == 16:
        halves = np.frombuffer(rest[4:], "<f2")
        numbers, steps = halves.astype(np.float64) * factor, np.spacing(np.abs(halves)).astype(np.float64) * factor
    else:
        blocks = ceil(count / 64)
        scales = np.frombuffer(rest[4 : 4 + 2 * blocks], "<f2").astype(np.float64)
        codes = _codes(rest[4 + 2 * blocks :], bits, signed)
        steps = np.repeat(scales * factor, 64)[:count]
        numbers = np.array(codes[:count], np.float64) * steps
    if axis == -2:
        return numbers.reshape(shape[::-1]).T, steps.reshape(shape[::-1]).T
    return numbers.reshape(shape), steps.reshape(shape)


def _codes(content: bytes, bits: int, signed: bool) -> list[int]:
    values = [int.from_bytes([byte], signed=signed) for byte in content]
    if bits == 8:
        return values
    codes = []
    for start in range(0, len(values), 32):
        pairs = [_halves(value, signed) for value in values[start : start + 32]]
        codes += [low for low, _ in pairs] + [high for _, high in pairs]
    return codes


def _halves(byte: int, signed: bool) -> tuple[int, int]:
    """The one pair of allowed codes with `low + 16 high = byte`."""
    least, most = (-7, 7) if signed else (0, 15)
    (pair,) = (
        (low, high) for low in range(least, most + 1) for high in range(least, most + 1) if low + 16 * high == byte
    )
    return pair
