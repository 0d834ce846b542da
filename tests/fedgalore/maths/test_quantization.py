"""Block-wise quantization against its table of bytes, read in float64, and what it promises of errors and bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fedgalore.maths import quantization
from fedgalore.maths.quantization import NotQuantizable, dequantize, quantize, quantize_together, quantized_bytes
from fedgalore.spec.quantization import Quantization
from tests.fedgalore.maths.quantization_reference import numbers_in

LARGEST, SMALLEST = torch.finfo(torch.float32).max, 2.0**-149
WAYS = [(bits, axis, signed) for bits in (4, 8, 16) for axis in (-1, -2) for signed in (True, False)]
quick = settings(max_examples=15, deadline=None)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def spread(shape: tuple[int, int], seed: int, low: float, high: float) -> Tensor:
    """Entries of either sign whose logarithms are spread from `low` to `high`; some are 0."""
    generator = torch.Generator().manual_seed(seed)
    size = torch.exp2(low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64))
    return (size * torch.randint(-1, 2, shape, generator=generator)).float()


SHAPES = st.tuples(st.integers(1, 9), st.integers(1, 150))
LOGARITHMS = st.tuples(st.floats(-149, 127.9), st.floats(-149, 127.9)).map(sorted)


@pytest.mark.parametrize(("bits", "axis", "signed"), WAYS)
@quick
@given(SHAPES, st.integers(0, 99), LOGARITHMS)
@example((1, 64), 0, [127.9, 127.9])
@example((3, 100), 0, [-149, -120])
def test_no_entry_is_further_off_than_half_a_step(
    bits: int, axis: int, signed: bool, shape: tuple[int, int], seed: int, logarithms: list[float]
) -> None:
    matrix = spread(shape, seed, *logarithms)
    matrix = matrix if signed else matrix.abs()
    data = quantize(matrix, bits, axis, signed)
    decoded = dequantize(data, shape, bits, axis, signed)
    assert decoded.isfinite().all()
    exact, steps = numbers_in(data.numpy(), shape, bits, axis, signed)
    np.testing.assert_array_equal(decoded.numpy(), exact)  # float64 of the bytes as they stand: nothing was rounded
    off, wide = np.abs(matrix.double().numpy() - exact), matrix.double().numpy()
    slack = 2**-30 * np.abs(wide).max()
    assert (off <= steps / 2 * (1 + 2**-20) + slack).all()


@pytest.mark.parametrize(("bits", "axis", "signed"), WAYS)
def test_what_was_decoded_is_coded_again_without_a_loss(bits: int, axis: int, signed: bool) -> None:
    matrix = spread((7, 90), 1, -10, 10)
    data = quantize(matrix if signed else matrix.abs(), bits, axis, signed)
    decoded = dequantize(data, (7, 90), bits, axis, signed)
    assert torch.equal(quantize(decoded, bits, axis, signed), data)


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("power", [-100, 1, 100])
def test_the_size_of_a_matrix_costs_nothing(bits: int, power: int) -> None:
    matrix = drawn(5, 70)
    data, scaled = quantize(matrix, bits), quantize(matrix * 2.0**power, bits)
    assert torch.equal(data[4:], scaled[4:])
    assert torch.equal(dequantize(scaled, (5, 70), bits), dequantize(data, (5, 70), bits) * 2.0**power)


def test_codes_are_rounded_half_to_even_and_a_block_has_its_own_step() -> None:
    matrix = torch.zeros(2, 64)
    matrix[0, :6] = torch.tensor([7, 0.5, 1.5, -2.5, 0.75, -7])
    matrix[1, :3] = torch.tensor([7e-3, -1.1e-3, 0.4e-3])
    decoded = dequantize(quantize(matrix, 4), (2, 64), 4)
    assert decoded[0, :6].tolist() == [7, 0, 2, -2, 1, -7]
    torch.testing.assert_close(decoded[1, :3], torch.tensor([7e-3, -1e-3, 0]), rtol=1e-3, atol=0)
    assert not decoded[:, 6:].any()
    down_the_columns = dequantize(quantize(matrix, 4, -2), (2, 64), 4, -2)
    assert not down_the_columns[1].any()  # one block has both rows of 32 columns


def test_no_sign_is_worth_half_of_the_error() -> None:
    matrix = drawn(32, 64).abs()
    with_sign, without = (dequantize(quantize(matrix, 4, -1, s), (32, 64), 4, -1, s) for s in (True, False))
    assert 0.4 < (without - matrix).norm() / (with_sign - matrix).norm() < 0.6
    assert without.min() >= 0


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0,)])
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_nothing_and_zeros_are_coded(shape: tuple[int, ...], bits: int) -> None:
    assert dequantize(quantize(torch.empty(shape), bits), shape, bits).shape == shape
    assert not dequantize(quantize(torch.zeros(3, 65), bits), (3, 65), bits).any()


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_the_largest_and_the_smallest_numbers_stay_numbers(bits: int) -> None:
    matrix = torch.tensor([[LARGEST, -LARGEST, 1.0, 0.0], [1e-38, -1e-38, SMALLEST, 0.0]])
    for row in matrix:
        decoded = dequantize(quantize(row, bits), (4,), bits)
        assert decoded.isfinite().all()
        torch.testing.assert_close(decoded[:2], row[:2], rtol=0.25, atol=0)
    few = torch.full((3,), SMALLEST)
    assert (dequantize(quantize(few, bits), (3,), bits) <= few).all()


@pytest.mark.parametrize(
    ("value", "signed", "reason"),
    [
        (float("nan"), True, "NaN or infinite"),
        (float("inf"), True, "NaN or infinite"),
        (-float("inf"), True, "NaN or infinite"),
        (1e39, True, "NaN or infinite"),
        (float("nan"), False, "NaN or infinite"),
        (-1e-9, False, "negative"),
    ],
)
@pytest.mark.parametrize("bits", [4, 8, 16])
def test_what_cannot_be_coded_is_refused(bits: int, value: float, signed: bool, reason: str) -> None:
    matrix = torch.ones(9, 70, dtype=torch.float64)
    matrix[5, 3] = value
    with pytest.raises(NotQuantizable, match=reason):
        quantize(matrix, bits, signed=signed)


@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 0), ((3, 4), 1), ((3, 4), -3), ((2, 3, 4), -2), ((4,), -2)])
def test_another_axis_is_refused(shape: tuple[int, ...], axis: int) -> None:
    reason = f"axis: {axis} of a tensor of {len(shape)} dimensions; use -1, or -2 of a matrix"
    with pytest.raises(ValueError, match=reason):
        quantize(torch.ones(shape), 4, axis)
    with pytest.raises(ValueError, match=reason):
        dequantize(quantize(torch.ones(shape), 4), shape, 4, axis)
    with pytest.raises(ValueError, match=reason):
        Quantization(shape, 4, axis)


def test_unknown_bits_and_bytes_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match="bits: 5; use one of 4, 8, 16"):
        quantize(torch.ones(2), 5)
    with pytest.raises(ValueError, match="bits: 32; use 4, 8 or 16"):
        Quantization((2,), 32)
    data = quantize(torch.ones(3, 64), 4)
    with pytest.raises(ValueError, match=r"\(3, 65\) at 4 bits takes 140 bytes; these are \(106,\)"):
        dequantize(data, (3, 65), 4)


@pytest.mark.parametrize(("bits", "axis", "signed"), WAYS)
def test_bytes_hang_neither_on_memory_nor_on_chunks(
    bits: int, axis: int, signed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    matrix = drawn(50, 45) if signed else drawn(50, 45).abs()
    data = quantize(matrix, bits, axis, signed)
    assert torch.equal(quantize(matrix.mT.contiguous().mT, bits, axis, signed), data)
    assert torch.equal(quantize(matrix.double(), bits, axis, signed), data)
    assert torch.equal(quantize(torch.nn.Parameter(matrix), bits, axis, signed), data)
    turned = matrix.mT.contiguous() if axis == -2 else matrix
    assert torch.equal(quantize(turned, bits, -1, signed), data)
    decoded = dequantize(data, (50, 45), bits, axis, signed)
    monkeypatch.setattr(quantization, "CHUNK", 128)
    assert torch.equal(quantize(matrix, bits, axis, signed), data)
    assert torch.equal(quantize(matrix.mT.contiguous().mT, bits, axis, signed), data)
    moved = torch.cat([torch.zeros(1, dtype=torch.uint8), data])[1:]
    assert torch.equal(dequantize(moved, (50, 45), bits, axis, signed), decoded)


@pytest.mark.parametrize(("bits", "axis", "signed"), WAYS)
@pytest.mark.parametrize("shape", [(50, 45), (3, 0), (2, 64), (64, 30)])
def test_a_batch_is_coded_and_decoded_as_each_alone(bits: int, axis: int, signed: bool, shape: tuple[int, int]) -> None:
    matrices = torch.stack([10.0**seed * drawn(*shape, seed=seed) for seed in range(5)])
    matrices = matrices if signed else matrices.abs()
    data = torch.stack([quantize(matrix, bits, axis, signed) for matrix in matrices])
    assert torch.equal(quantize_together(matrices, bits, axis, signed), data)
    alone = [dequantize(each, shape, bits, axis, signed) for each in data]
    assert torch.equal(dequantize(data, shape, bits, axis, signed), torch.stack(alone))


def test_every_number_of_threads_gives_the_same_bytes() -> None:
    matrix, threads = drawn(300, 700), torch.get_num_threads()
    try:
        coded = []
        for count in (1, 2):
            torch.set_num_threads(count)
            data = quantize(matrix, 4, -2)
            coded.append((data, dequantize(data, matrix.shape, 4, -2)))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, two) for one, two in zip(*coded, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(("bits", "axis", "signed"), WAYS)
def test_a_graphics_card_gives_the_same_bytes_and_numbers(bits: int, axis: int, signed: bool) -> None:
    for low, high in ((-149, 127.9), (-10, 1)):
        matrix = spread((70, 1000), 3, low, high)
        matrix = matrix if signed else matrix.abs()
        data = quantize(matrix, bits, axis, signed)
        assert torch.equal(quantize(matrix.cuda(), bits, axis, signed).cpu(), data)
        decoded = dequantize(data, (70, 1000), bits, axis, signed)
        assert torch.equal(dequantize(data.cuda(), (70, 1000), bits, axis, signed).cpu(), decoded)


def test_bits_an_entry() -> None:
    assert [8 * quantized_bytes((64, 1000), bits) / 64_000 for bits in (4, 8, 16)] == [4.2505, 8.2505, 16.0005]
