"""A client's change in few bytes: nothing is lost, little is left out, and every receiver reads the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedgalore.maths.compression import Compressed, Sent, compress, least_squares
from fedgalore.maths.quantization import NotQuantizable, dequantize, quantize, quantized_bytes
from fedgalore.spec.quantization import Quantization

D, K = 6, 9
BITS = [32, 4, 8, 16]


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def falling(d: int, k: int, base: float) -> Tensor:
    """A `(d, k)` matrix whose singular values are `base^-j`."""
    left, _ = torch.linalg.qr(drawn(d, d))
    right, _ = torch.linalg.qr(drawn(k, d, seed=1))
    return left @ (base ** -torch.arange(d)).diag() @ right.mT


def compressed(change: Tensor, rank: int, bits: int, seed: int = 0) -> Compressed:
    codes = {}
    if bits != 32:
        d, k = change.shape
        codes = {"left": Quantization((d, rank), bits, axis=-2), "right": Quantization((rank, k), bits)}
    return compress(change.clone(), rank, torch.Generator().manual_seed(seed), **codes)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("rank", [1, 3, D])
def test_a_compressed_change_and_its_residue_are_the_change(rank: int, bits: int) -> None:
    change = falling(D, K, 4.0)
    parts = compressed(change, rank, bits)
    left, right = parts.left.tensor, parts.right.tensor
    assert (left.dtype, right.dtype, parts.residue.dtype) == (torch.float32,) * 3
    assert (left.shape, right.shape) == ((D, rank), (rank, K))
    torch.testing.assert_close(left @ right + parts.residue, change, atol=1e-6, rtol=0)
    if bits != 4:
        torch.testing.assert_close(left.mT @ left, torch.eye(rank), atol=0.02, rtol=0)
        size = torch.linalg.matrix_norm(parts.residue)
        torch.testing.assert_close(size, (4.0 ** -torch.arange(rank, D)).norm(), atol=0.01, rtol=0.05)


@pytest.mark.parametrize("bits", BITS)
def test_what_is_sent_is_what_the_receiver_reads(bits: int) -> None:
    def read(sent: Sent, axis: int) -> Tensor:
        if bits == 32:
            return sent.wire
        assert sent.wire.shape == (quantized_bytes(sent.tensor.shape, bits),)
        return dequantize(sent.wire, sent.tensor.shape, bits, axis)

    parts = compressed(drawn(20, 130), 4, bits)
    assert torch.equal(read(parts.left, -2), parts.left.tensor)
    assert torch.equal(read(parts.right, -1), parts.right.tensor)


@pytest.mark.parametrize("bits", BITS)
def test_what_is_sent_over_the_rounds_and_the_last_residue_are_all_changes(bits: int) -> None:
    changes = [falling(40, 70, 1.2).roll((7 * shift, shift), (0, 1)) * 1e-4 for shift in range(12)]
    sent, residue = torch.zeros(40, 70, dtype=torch.float64), torch.zeros(40, 70)
    for change in changes:
        parts = compressed(change + residue, 5, bits)
        sent += parts.left.tensor.double() @ parts.right.tensor.double()
        residue = parts.residue
        assert residue.norm() > 0.1 * change.norm()
    whole = sum(change.double() for change in changes)
    torch.testing.assert_close(sent + residue, whole, rtol=0, atol=1e-9)  # of entries up to 1e-4
    quiet = residue.norm()
    for _ in range(12):  # without further changes all of it arrives
        residue = compressed(residue, 5, bits).residue
    assert residue.norm() < 0.05 * quiet


def test_4_bits_leave_out_two_percent_of_the_energy_and_half_more_without_the_solve() -> None:
    change = drawn(96, 48, seed=1) * 0.93 ** torch.arange(48) @ drawn(48, 200, seed=2)
    parts = compressed(change, 48, 4)
    left_out = parts.residue.square().sum() / change.square().sum()
    assert 0.01 < left_out < 0.02
    plain = dequantize(quantize(parts.left.tensor.mT @ change, 4), (48, 200), 4)
    unsolved = (change - parts.left.tensor @ plain).square().sum() / change.square().sum()
    assert unsolved > 1.4 * left_out


def test_least_squares_are_those_of_every_matrix() -> None:
    left, change = drawn(3, 20, 5), drawn(3, 20, 30, seed=1)
    expected = torch.linalg.lstsq(left, change).solution
    torch.testing.assert_close(least_squares(left, left.mT @ change), expected, rtol=1e-4, atol=1e-5)


def test_a_change_is_compressed_the_same_way_twice() -> None:
    change = drawn(20, 30)
    first, again, other = (compressed(change, 4, 16, seed) for seed in (1, 1, 2))
    assert torch.equal(first.left.wire, again.left.wire)
    assert torch.equal(first.right.wire, again.right.wire)
    assert not torch.equal(first.left.wire, other.left.wire)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_a_change_of_nothing_is_sent_as_nothing_and_one_that_is_no_number_not_at_all(bits: int) -> None:
    parts = compressed(torch.zeros(20, 30), 4, bits)
    assert not parts.right.tensor.any()
    assert not parts.residue.any()
    with pytest.raises(NotQuantizable, match="NaN or infinite"):
        compressed(torch.full((4, 30), torch.nan), 4, bits)
