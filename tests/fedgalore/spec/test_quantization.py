"""How layouts describe quantized tensors: as long as the maths makes them, and last in a file."""

from __future__ import annotations

import pytest

from fedgalore.maths.quantization import BITS, BLOCK, quantized_bytes
from fedgalore.spec import quantization
from fedgalore.spec.layout import size_bytes, update_tensors
from fedgalore.spec.method import PlainLayout, Tensors, float32, quantized
from fedgalore.spec.plan import Dense, Target, TensorSpec, TrainingPlan
from fedgalore.spec.quantization import Quantization
from protos.codec import encode_header, parse_header
from tests.builders import a_spec


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("shape", [(8, 8), (5, 13), (3, 64), (65,), (2, 3, 4)])
def test_a_layout_and_the_maths_agree_on_the_bytes(bits: int, shape: tuple[int, ...]) -> None:
    assert quantization.BLOCK == BLOCK
    (tensor,) = quantized(bits, code=shape).values()
    assert tensor.shape == (quantized_bytes(shape, bits),)
    assert tensor.size_bytes == quantized_bytes(shape, bits)


class InFewBits(PlainLayout):
    def update(self, target: Target, client: str, round_number: int) -> Tensors:
        left = quantized(4, axis=-2, left=(target.d, 2))
        return (
            left
            | {"middle": TensorSpec("F16", (2, 2))}
            | quantized(16, root=(2, target.k), signed=False)
            | float32(last=(1,))
        )


@pytest.mark.parametrize("shape", [(), (1, 1), (2, 4)])
def test_what_its_scales_would_make_larger_travels_exactly(shape: tuple[int, ...]) -> None:
    assert quantized(4, code=shape) == quantized(32, code=shape) == float32(code=shape)


def test_quantized_tensors_come_last_in_a_file_and_count_as_their_entries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedgalore.spec.layout.layout_of", lambda spec: InFewBits())
    plan = TrainingPlan((Target("w", (30, 40), 2),), (Dense("head", (4, 30)),))
    tensors = update_tensors(a_spec(), plan, "a", 1)
    assert list(tensors) == ["w/last", "w/middle", "w/left", "w/root", "head/delta"]
    assert {name: spec.entries for name, spec in tensors.items()} == {
        "w/last": 1,
        "head/delta": 120,
        "w/middle": 4,
        "w/left": 60,
        "w/root": 80,
    }
    header = parse_header(encode_header(tensors, {}))
    assert all(
        header.tensors[name].spec == spec for name, spec in tensors.items()
    )  # a file says no more than its bytes
    assert tensors["w/left"].quantization == Quantization((30, 2), 4, -2)
    assert tensors["w/root"] == TensorSpec("U8", (164,))


@pytest.mark.parametrize("rank", [4, 8, 16])
@pytest.mark.parametrize("width", [384, 768])
def test_four_bits_at_seven_and_a_half_times_the_rank_take_no_more_bytes_than_lora(width: int, rank: int) -> None:
    ours: Tensors = {}
    lora: Tensors = {}
    for layer in range(6):
        for name, d, k in (("attention.query", width, width), ("intermediate.dense", width, 4 * width)):
            q, target = 15 * rank // 2, f"encoder.layer.{layer}.{name}.weight"
            factors = quantized(4, axis=-2, left=(d, q)) | quantized(4, right=(q, k))
            ours |= {f"{target}/{suffix}": tensor for suffix, tensor in factors.items()}
            adapters = float32(lora_A=(rank, k), lora_B=(d, rank))
            lora |= {f"{target}/{suffix}": tensor for suffix, tensor in adapters.items()}
    assert len(encode_header(ours, {})) + size_bytes(ours) <= len(encode_header(lora, {})) + size_bytes(lora)
