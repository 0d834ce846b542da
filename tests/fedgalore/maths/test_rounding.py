"""Stochastic rounding: no bias, no other neighbours, the same bits however it is computed."""

from __future__ import annotations

import pytest
import torch

from fedgalore.maths.quantization import pieces_told_by, quantize, told_by
from fedgalore.maths.rounding import BLOCK, POOL, move_, move_along_
from fedgalore.spec.quantization import Quantization


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def neighbours(exact):
    """The bfloat16 numbers below and above, in length."""
    down = (exact.view(torch.int32) & -(2**16)).view(torch.float32)
    up = ((exact.view(torch.int32) & -(2**16)) + 2**16).view(torch.float32)
    return down, up


def test_a_weight_goes_to_one_of_its_two_neighbours_and_on_average_to_neither():
    start, change = drawn(64, 48).bfloat16(), drawn(64, 48, seed=1)
    exact = start.float() * 0.75 + 0.01 * change
    down, up = neighbours(exact)
    tries = []
    for seed in range(400):
        weight = start.clone()
        move_(weight, change, 0.01, 0.75, seed)
        rounded = weight.float()
        assert bool(((rounded == down) | (rounded == up)).all())
        tries.append(rounded)
    off = (torch.stack(tries).mean(0) - exact).abs()
    unit = (up - down).abs()
    # a mean of 400 draws of variance at most 1/4 is off by 1/40 of a unit; of 3072 entries the worst by 4.5 times that
    assert float((off / unit).max()) < 4.5 / 40
    assert float((off / unit).mean()) < 1 / 40


def test_steps_far_below_a_unit_in_the_last_place_add_up():
    weight = torch.ones(200, 300).bfloat16()
    for seed in range(100):
        move_(weight, torch.ones(200, 300), 1e-4, 1.0, seed)  # a unit is 2^-7
    assert float(weight.float().mean()) == pytest.approx(1.01, abs=3e-4)
    nearest = torch.ones(200, 300).bfloat16()
    for _ in range(100):
        nearest.add_(torch.ones(200, 300), alpha=1e-4)
    assert bool((nearest == 1).all())


@pytest.mark.parametrize("value", [0.0, -0.0, 1.5, float("inf"), -float("inf"), 3.3895e38])
def test_what_bfloat16_can_tell_stays(value):
    weight = torch.full((3, 5), value).bfloat16()
    move_(weight, None, 1.0, 1.0, seed=3)
    assert torch.equal(weight, torch.full((3, 5), value).bfloat16())


@pytest.mark.parametrize("shape", [(3, 5), (700, 400), (2, BLOCK + 7), (1, POOL + 9)])
def test_the_same_seed_gives_the_same_bits_on_any_number_of_threads_and_another_seed_others(shape):
    def moved(seed, threads=1):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        weight = drawn(*shape).bfloat16()
        move_(weight, drawn(*shape, seed=1), 0.1, 1.0, seed)
        torch.set_num_threads(before)
        return weight

    assert torch.equal(moved(1), moved(1, threads=2))
    assert not torch.equal(moved(1), moved(2))


def test_a_transposed_view_moves_as_its_matrix():
    weight, change = drawn(90, 40).bfloat16(), drawn(90, 40, seed=1)
    turned = weight.clone()
    move_(weight, change, 0.1, 0.9, seed=5)
    move_(turned.mT, change.mT.contiguous(), 0.1, 0.9, seed=5)
    assert torch.equal(weight, turned)


def test_blocks_of_a_matrix_are_not_rounded_alike():
    weight = torch.full((8 * POOL // BLOCK, BLOCK), 1.0).bfloat16()
    move_(weight, torch.ones_like(weight, dtype=torch.float32), 2**-8, 1.0, seed=0)
    rows = weight.float() - 1 - 2**-8
    alike = torch.corrcoef(rows) - torch.eye(len(rows))
    assert float(alike.abs().max()) < 0.05


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_coded_change_moves_a_weight_piece_by_piece(bits, dtype):
    shape = (300, 250)
    change = quantize(drawn(*shape, seed=1), bits)
    code = Quantization(shape, bits)
    exact = told_by(change, code)
    assert torch.equal(torch.cat([piece.clone() for piece in pieces_told_by(change, code)]).view(shape), exact)
    weight = drawn(*shape).to(dtype)
    expected = weight.float() + 0.1 * exact
    move_along_(weight, pieces_told_by(change, code), 0.1, seed=2)
    if dtype is torch.float32:
        torch.testing.assert_close(weight, expected)
    else:
        down, up = neighbours(expected)
        assert bool(((weight == down) | (weight == up)).float().mean() > 0.999)  # but for float32's own rounding
