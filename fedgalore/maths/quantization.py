"""Matrices in 4, 8 or 16 bits an entry: block-wise quantization with a bounded error and the same bits everywhere.

After Dettmers et al., https://arxiv.org/abs/2110.02861. The entries, read along an axis, are cut into blocks of 64.
With `top` the largest code, 7 or 127, a block has

    step s = max|x| / top, rounded down to 11 significant bits, at least 2^-126; code n = round(x / s), half to even.

As `s` is rounded before it is used, no code exceeds `top`, and `|x - n s| <= s / 2`. A step travels as a float16 scale
relative to one float32 factor a matrix: a power of two that puts the largest scale into [2^14, 2^15). So a matrix may
be as small or as large as float32 allows. A step 2^28 times smaller than the largest is rounded once more; its block
is then off by less than float32's own rounding of the largest entry. `n s` has at most 19 significant bits, so that no
processor rounds it.

At 16 bits the values themselves are float16 relative to such a factor. Numbers that are never negative have the `top`
15 or 255: the bit of the sign halves their error.

A quantized matrix is one vector of bytes, little-endian, so that a file's header has one entry for it:

| bytes | what |
|---|---|
| 4 | the factor, float32 |
| 2 a block | its scale, float16 |
| 32 or 64 a block | its codes, signed bytes; unsigned where no number is negative |

At 4 bits a byte is `low + 16 high`, for the entries `j` and `32 + j` of a block. Zeros fill up the last block. At 16
bits the values follow the factor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import gcd, prod
from typing import NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

BITS = (4, 8, 16)
BLOCK = 64
FACTOR_BYTES = 4
SCALE_BYTES = 2
CHUNK = 2**16  # entries at a time on a CPU, whose cache holds them
_WHOLE = 2**26  # on other devices
_CACHE_LINE = 16  # float32 entries
_ELEVEN_BITS = -(2**13)  # mask of a float32: of its fraction, what float16 has
_LEAST_STEP = 2**23  # the bits of 2^-126, the smallest float32 with a whole fraction
_LARGEST_HALF = torch.finfo(torch.float16).max


class Code(Protocol):
    """How a tensor is quantized: the arguments of `dequantize`."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def bits(self) -> int: ...

    @property
    def axis(self) -> int: ...

    @property
    def signed(self) -> bool: ...


class NotQuantizable(ValueError):
    """A matrix with values that no code can tell; the message says which."""


def quantized_bytes(shape: Sequence[int], bits: int) -> int:
    """Bytes of a matrix of this shape.

    Raises:
        ValueError: `bits` is none of `BITS`.
    """
    if bits not in BITS:
        raise ValueError(f"bits: {bits}; use one of {', '.join(map(str, BITS))}")
    if bits == 16:
        return FACTOR_BYTES + 2 * prod(shape)
    return FACTOR_BYTES + _blocks(shape) * (SCALE_BYTES + BLOCK * bits // 8)


def quantize(matrix: Tensor, bits: int, axis: int = -1, signed: bool = True) -> Tensor:
    """The bytes of a matrix, `(quantized_bytes(matrix.shape, bits),)` uint8.

    Reads the matrix once, at 16 bits twice. Beside the matrix and the result there are 4 bytes a block and a few chunks
    of 2^16 entries.

    Args:
        matrix: float32 or float64 of any shape; of two dimensions for axis -2.
        bits: an entry, one of `BITS`.
        axis: what blocks run along: -1 reads row after row, -2 column after column.
        signed: False for entries that are never negative.

    Raises:
        NotQuantizable: NaN, values beyond float32, or negative ones where `signed` is False.
        ValueError: there are no such bits, or no such axis.
    """
    _check_axis(matrix.shape, axis)
    data = torch.zeros(quantized_bytes(matrix.shape, bits), dtype=torch.uint8, device=matrix.device)
    if not matrix.numel():
        return data
    parts = _parts(data, matrix.shape, bits, signed)
    if bits == 16:
        peaks = [chunk.abs().amax() for _, chunk in _chunks(matrix, axis, signed)]
        factor = _factor(torch.stack(peaks))
        for start, chunk in _chunks(matrix, axis, signed):
            parts.codes[start : start + len(chunk)] = (chunk / factor).clamp_(-_LARGEST_HALF, _LARGEST_HALF)
    else:
        steps = torch.empty(len(parts.scales), dtype=torch.float32, device=matrix.device)
        for start, chunk in _chunks(matrix, axis, signed):
            missing = -len(chunk) % BLOCK
            blocks = (pad(chunk, (0, missing)) if missing else chunk).view(-1, BLOCK)
            place = slice(start // BLOCK, start // BLOCK + len(blocks))
            steps[place], parts.codes[place] = _steps_and_codes(blocks, bits, signed)
        factor = _factor(steps)
        parts.scales.copy_(steps.div_(factor))
    parts.factor.copy_(factor)
    return data


def quantize_together(matrices: Tensor, bits: int, axis: int = -1, signed: bool = True) -> Tensor:
    """The bytes of each of `matrices (B, *shape)`, `(B, quantized_bytes(shape, bits))` uint8, as `quantize` makes them.

    Together where they are whole blocks, so that many small ones cost no more than one large one.

    Raises:
        NotQuantizable, ValueError: as `quantize`.
    """
    shape, entries = matrices.shape[1:], prod(matrices.shape[1:])
    if not signed or not matrices.numel() or entries % BLOCK:
        return torch.stack([quantize(matrix, bits, axis, signed) for matrix in matrices])
    _check_axis(shape, axis)
    rows = (matrices.mT if axis == -2 else matrices).float().flatten(1)
    if bits == 16:
        factor = _factor(torch.maximum(rows.amax(-1, keepdim=True), -rows.amin(-1, keepdim=True)))
        values = (rows / factor).clamp_(-_LARGEST_HALF, _LARGEST_HALF).half()
        return torch.cat([factor.view(torch.uint8), values.view(torch.uint8)], dim=1)
    steps = torch.empty(len(rows), entries // BLOCK, dtype=torch.float32, device=rows.device)
    codes = torch.empty(*steps.shape, BLOCK * bits // 8, dtype=torch.int8, device=rows.device)
    for start, chunk in _chunks(rows, -1, signed):
        place = slice(start // BLOCK, (start + len(chunk)) // BLOCK)
        steps.view(-1)[place], codes.flatten(0, 1)[place] = _steps_and_codes(chunk.view(-1, BLOCK), bits, signed)
    factor = _factor(steps)
    parts = (factor, steps.div_(factor).half(), codes.flatten(1))
    return torch.cat([part.view(torch.uint8) for part in parts], dim=1)


def dequantize(data: Tensor, shape: Sequence[int], bits: int, axis: int = -1, signed: bool = True) -> Tensor:
    """The matrix of these bytes, exactly, float32; with axis -2 it lies in memory column after column.

    Args:
        data: `(..., quantized_bytes(shape, bits))` uint8; leading dimensions come back: `(..., *shape)`.

    Raises:
        ValueError: `data` is not that long, or there are no such bits or no such axis.
    """
    _check_axis(shape, axis)
    if data.shape[-1] != (size := quantized_bytes(shape, bits)):
        raise ValueError(f"{tuple(shape)} at {bits} bits takes {size} bytes; these are {tuple(data.shape)}")
    parts = _parts(data.reshape(-1, size), shape, bits, signed, _copied)
    if bits == 16:
        flat = parts.codes.float().mul_(parts.factor)
    else:
        steps = (parts.scales.float() * parts.factor).unsqueeze(-1)
        flat = torch.empty(*steps.shape[:2], BLOCK, dtype=torch.float32, device=data.device)
        blocks = max(1, _chunk(data) // BLOCK)
        matrices = max(1, blocks // max(1, steps.shape[1]))
        for of_some in zip(*(tensor.split(matrices) for tensor in (flat, parts.codes, steps)), strict=True):
            for numbers, codes, step in zip(*(tensor.split(blocks, 1) for tensor in of_some), strict=True):
                _read_codes(numbers, codes, bits, signed)
                numbers.mul_(step)
        flat = flat.flatten(1)[:, : prod(shape)]
    if axis == -2:
        return flat.reshape(*data.shape[:-1], shape[1], shape[0]).mT
    return flat.reshape(*data.shape[:-1], *shape)


def pieces_told_by(data: Tensor, code: Code | None) -> Iterator[Tensor]:
    """The entries of `told_by` in their order, flat, some at a time; each piece holds until the next is asked for.

    Args:
        data: as of `dequantize`, without leading dimensions.
        code: its blocks run along the last axis; None: one piece of all.
    """
    if code is None:
        yield data.view(-1)
        return
    assert code.axis == -1
    left = prod(code.shape)
    parts = _parts(data.reshape(1, -1), code.shape, code.bits, code.signed, _copied)
    if code.bits == 16:
        for values in parts.codes[0].split(_chunk(data)):
            yield values.float().mul_(parts.factor[0])
        return
    steps = (parts.scales[0].float() * parts.factor[0]).unsqueeze(-1)
    size = max(1, _chunk(data) // BLOCK)
    scratch = torch.empty(min(size, len(steps)), BLOCK, dtype=torch.float32, device=data.device)
    for codes, step in zip(parts.codes[0].split(size), steps.split(size), strict=True):
        numbers = scratch[: len(codes)]
        _read_codes(numbers, codes, code.bits, code.signed)
        yield numbers.mul_(step).view(-1)[:left]
        left -= numbers.numel()


def told_by(data: Tensor, code: Code | None) -> Tensor:
    """`dequantize`, by a code; None: the data are the numbers themselves."""
    return data if code is None else dequantize(data, code.shape, code.bits, code.axis, code.signed)


class _Parts(NamedTuple):
    """Of the bytes of matrices: `factor (..., 1)`, `scales (..., blocks)`, `codes (..., blocks, bytes)` or values."""

    factor: Tensor
    scales: Tensor
    codes: Tensor


def _parts(
    data: Tensor,
    shape: Sequence[int],
    bits: int,
    signed: bool,
    numbers: Callable[[Tensor, torch.dtype], Tensor] = Tensor.view,
) -> _Parts:
    """Views into the bytes; `numbers` makes those of the factors, scales and values."""
    sizes = (FACTOR_BYTES, 0 if bits == 16 else SCALE_BYTES * _blocks(shape))
    factor, scales, codes = data.split([*sizes, data.shape[-1] - sum(sizes)], dim=-1)
    if bits == 16:
        codes = numbers(codes, torch.float16)
    else:
        codes = codes.view(torch.int8 if signed else torch.uint8).unflatten(-1, (_blocks(shape), BLOCK * bits // 8))
    return _Parts(numbers(factor, torch.float32), numbers(scales, torch.float16), codes)


def _copied(part: Tensor, dtype: torch.dtype) -> Tensor:
    """Bytes `(N, n)` of a file, which lie anywhere, as numbers."""
    flat = part.clone(memory_format=torch.contiguous_format).view(-1).view(dtype)
    return flat.view(len(part), part.shape[1] // dtype.itemsize)


def _check_axis(shape: Sequence[int], axis: int) -> None:
    if axis != -1 and not (axis == -2 and len(shape) == 2):
        raise ValueError(f"axis: {axis} of a tensor of {len(shape)} dimensions; use -1, or -2 of a matrix")


def _blocks(shape: Sequence[int]) -> int:
    return -(-prod(shape) // BLOCK)


def _chunk(tensor: Tensor) -> int:
    return CHUNK if tensor.device.type == "cpu" else _WHOLE


def _chunks(matrix: Tensor, axis: int, signed: bool) -> Iterator[tuple[int, Tensor]]:
    """The entries along the axis, a chunk of whole blocks at a time, float32, and where each starts."""
    rows, start = matrix.detach(), 0
    if axis == -2:
        rows = rows.mT
    if rows.is_contiguous():
        parts = rows.view(-1).split(_chunk(matrix))
    else:
        unit = BLOCK // gcd(rows[0].numel(), BLOCK)  # rows that make up whole blocks
        least = -(-_CACHE_LINE // unit)  # columns that share their lines of the cache
        parts = rows.split(unit * max(least, _chunk(matrix) // (unit * rows[0].numel())))
    for part in parts:
        chunk = part.flatten().float()
        if not signed and float(chunk.amin()) < 0:
            raise NotQuantizable("holds negative values; only what is never negative can be quantized without a sign")
        yield start, chunk
        start += len(chunk)


def _steps_and_codes(blocks: Tensor, bits: int, signed: bool) -> tuple[Tensor, Tensor]:
    """The steps and the codes of `blocks (n, 64)`, the codes as whole numbers in float32."""
    scratch = blocks.abs()
    peaks = scratch.amax(-1)
    # by a tensor: CUDA would multiply by the reciprocal of a number, which rounds otherwise
    exact = peaks.div(torch.full_like(peaks, 2 ** (bits - 1) - 1 if signed else 2**bits - 1))
    steps = exact.view(torch.int32).bitwise_and_(_ELEVEN_BITS).clamp_(min=_LEAST_STEP).view(torch.float32)
    codes = torch.div(blocks, steps.unsqueeze(-1), out=scratch).round_()
    if bits == 4:
        low, high = codes.split(BLOCK // 2, dim=-1)
        codes = torch.add(low, high, alpha=16)
    return steps, codes


def _read_codes(blocks: Tensor, codes: Tensor, bits: int, signed: bool) -> None:
    """Writes `codes` as numbers into `blocks (..., 64)`."""
    if bits == 4:
        high = (codes + 8 if signed else codes) >> 4
        blocks[..., : BLOCK // 2] = codes - 16 * high
        blocks[..., BLOCK // 2 :] = high
    else:
        blocks.copy_(codes)


def _factor(numbers: Tensor) -> Tensor:
    """The power of two that the largest of `numbers (..., n)` is 2^14 to 2^15 times as large as; from 2^-126 to 2^112.

    At its upper end it is twice as small as that, so that even 65504 times it is a float32. `(..., 1)`.
    """
    largest = numbers.amax(-1, keepdim=True)
    if not bool(torch.isfinite(largest).all()):
        raise NotQuantizable("holds NaN or infinite values")
    exponent = (largest.view(torch.int32) >> 23) - 14
    return (exponent.clamp_(1, 239) << 23).view(torch.float32)
