"""The codec against the safetensors library, against damage, and against headers that only look right."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedgalore.spec.plan import TensorSpec
from protos import generate
from protos.codec import (
    MAX_HEADER_BYTES,
    CodecError,
    SafetensorsWriter,
    encode_header,
    open_update,
    parse_header,
)

NAMES = st.text(min_size=1, max_size=20).filter(lambda name: name != "__metadata__" and name.isprintable())
SHAPES = st.lists(st.integers(1, 5), max_size=3).map(tuple)
TENSORS = st.dictionaries(NAMES, SHAPES, max_size=5)
METADATA = st.dictionaries(NAMES, st.text(max_size=20).filter(lambda text: text.isprintable()), max_size=3)
on_disk = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def arrays(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Some of single precision, then of half, then bytes: larger items first."""
    rng = np.random.default_rng(0)
    dtypes = [(np.float32, np.float16, np.uint8)[3 * place // len(shapes)] for place in range(len(shapes))]
    pairs = zip(shapes.items(), dtypes, strict=True)
    return {name: np.asarray(rng.uniform(0, 9, shape)).astype(dtype).reshape(shape) for (name, shape), dtype in pairs}


def write(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> Path:
    specs = {name: TensorSpec({4: "F32", 2: "F16", 1: "U8"}[a.itemsize], a.shape) for name, a in tensors.items()}
    with SafetensorsWriter(path, specs, metadata or {}) as writer:
        for name in reversed(tensors):  # any order will do
            writer.write(name, tensors[name])
    return path


def raw(document: Any, data: bytes = b"") -> bytes:
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    text += b" " * (-(8 + len(text)) % 8)
    return len(text).to_bytes(8, "little") + text + data


@on_disk
@given(TENSORS, METADATA)
def test_what_is_written_is_read_by_us_and_by_the_library(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]
) -> None:
    tensors = arrays(shapes)
    path = write(tmp_path / "file", tensors, metadata)
    ours = open_update(path)
    theirs = safetensors.numpy.load_file(path)
    assert ours.metadata == metadata
    assert set(ours.names) == set(theirs) == set(tensors)
    for name, array in tensors.items():
        np.testing.assert_array_equal(ours.tensor(name), array)
        np.testing.assert_array_equal(theirs[name], array)
        assert ours.tensor(name).flags.aligned


@on_disk
@given(TENSORS, METADATA)
def test_what_the_library_writes_is_read_by_us(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]], metadata: dict[str, str]
) -> None:
    tensors = arrays(shapes)
    path = tmp_path / "file"
    safetensors.numpy.save_file(tensors, path, metadata or None)
    ours = open_update(path)
    assert ours.metadata == metadata
    for name, array in tensors.items():
        np.testing.assert_array_equal(ours.tensor(name), array)


@on_disk
@given(st.data())
def test_a_damaged_file_is_refused_or_still_means_something(tmp_path: Path, data: st.DataObject) -> None:
    content = write(tmp_path / "whole", arrays({"a": (2, 3), "b/delta": (4,)}), {"k": "v"}).read_bytes()
    start = parse_header(content).data_start
    at = data.draw(st.integers(0, start - 1))
    damaged = content[:at] + bytes([data.draw(st.integers(0, 255))]) + content[at + 1 :]
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    try:
        header = open_update(path).header
    except CodecError:
        return
    assert header.size_bytes == len(damaged)


@given(st.binary(max_size=200))
def test_noise_is_refused_as_such(noise: bytes) -> None:
    with suppress(CodecError):
        assert not parse_header(noise).tensors


@pytest.mark.parametrize("change", [-1, -9, 1, 8])
def test_cut_off_or_trailing_bytes_are_refused(tmp_path: Path, change: int) -> None:
    path = write(tmp_path / "file", arrays({"a": (2, 3)}))
    content = path.read_bytes()
    path.write_bytes(content[:change] if change < 0 else content + b"\0" * change)
    with pytest.raises(CodecError, match=r"has \d+ bytes but its header describes"):
        open_update(path)


def entry(start: int, stop: int, shape: list[Any] | None = None, dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": [(stop - start) // 4] if shape is None else shape, "data_offsets": [start, stop]}


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, "gap or overlap"),
        ({"a": entry(0, 8), "b": entry(12, 16)}, "gap or overlap"),
        ({"a": entry(4, 8)}, "gap or overlap"),
        ({"a": entry(0, 8, [3])}, "span 8 bytes, its shape 12"),
        ({"a": entry(8, 0, [2])}, "span -8 bytes"),
        ({"a": entry(0, 4, [2], "I16")}, "dtype 'I16'; send one of F32, F16, U8"),
        (
            {"a": entry(0, 2, [1], "F16"), "b": entry(2, 6, [1])},
            "'b' of dtype F32 lies unaligned; put larger items first",
        ),
        ({"a": entry(0, 0, [0])}, "positive whole numbers"),
        ({"a": entry(0, 4, [True])}, "positive whole numbers"),
        ({"a": entry(0, 4, [1.0])}, "positive whole numbers"),
        ({"a": entry(0, 4, [-1])}, "positive whole numbers"),
        ({"a": entry(0, 4, [2**70])}, "positive whole numbers"),
        ({"a": {**entry(0, 4), "data_offsets": [0]}}, "two whole numbers"),
        ({"a": {**entry(0, 4), "extra": 1}}, "exactly dtype, shape and data_offsets"),
        ({"a": [0, 4]}, "exactly dtype, shape and data_offsets"),
        ({"__metadata__": {"round": 3}}, "must map names to strings"),
        ({"__metadata__": None}, "must map names to strings"),
        ([], "not a JSON object"),
        (b'{"a": 1, "a": 2}', "a key twice"),
        (b'{"a": NaN}', "NaN, which is not JSON"),
        (b"{", "not valid JSON"),
        (b'{"\xff": 1}', "not valid JSON"),
        (b'{"a":' + b"[" * 100_000, "not valid JSON"),
        (b'{"a":' + b"1" * 10_000 + b"}", "not valid JSON"),
    ],
)
def test_headers_that_only_look_right_are_refused(document: Any, reason: str) -> None:
    with pytest.raises(CodecError, match=reason):
        parse_header(raw(document))


@pytest.mark.parametrize("length", [0, 1, MAX_HEADER_BYTES + 1, 2**64 - 1])
def test_impossible_header_lengths_are_refused_before_anything_is_read(length: int) -> None:
    with pytest.raises(CodecError, match="not a safetensors file"):
        parse_header(length.to_bytes(8, "little") + b"{}")


def test_a_header_that_would_misalign_the_data_is_refused() -> None:
    with pytest.raises(CodecError, match="multiple of 8"):
        parse_header((2).to_bytes(8, "little") + b"{}")


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    tensors = arrays({"a": (2, 3), "b": (4,)})
    first, second = write(tmp_path / "1", tensors, {"k": "v"}), write(tmp_path / "2", tensors, {"k": "v"})
    assert first.read_bytes() == second.read_bytes()


def test_writing_to_a_view_never_reaches_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "file", arrays({"a": (2, 3)}))
    before = path.read_bytes()
    open_update(path).tensor("a")[:] = 7
    assert path.read_bytes() == before


def test_arrays_in_any_memory_order_are_written_by_their_values(tmp_path: Path) -> None:
    wide = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = write(tmp_path / "file", {"t": wide.T})
    np.testing.assert_array_equal(open_update(path).tensor("t"), wide.T)


def test_a_writer_wants_every_tensor_once_and_as_announced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    specs = {"a": TensorSpec("F32", (2,)), "b": TensorSpec("F32", (3,))}
    two = np.zeros(2, np.float32)
    with pytest.raises(CodecError, match="never written: b"), SafetensorsWriter(path, specs, {}) as writer:
        writer.write("a", two)
    assert not path.exists()
    for name, array, reason in [
        ("a", np.zeros(2), "float64"),
        ("b", two, r"announced F32 \(3,\)"),
        ("c", two, "not in the header"),
    ]:
        with pytest.raises(CodecError, match=reason), SafetensorsWriter(path, specs, {}) as writer:
            writer.write(name, array)
        assert not path.exists()
    with SafetensorsWriter(path, {"a": specs["a"]}, {}) as writer:
        writer.write("a", two)
        with pytest.raises(CodecError, match="written already"):
            writer.write("a", two)


def test_a_name_that_no_file_holds(tmp_path: Path) -> None:
    with pytest.raises(CodecError, match="no tensor 'x'"):
        open_update(write(tmp_path / "file", arrays({"a": (1,)}))).tensor("x")


def test_headers_are_padded_to_align_the_data() -> None:
    for name in ("a", "ab", "abc", "ümlaut"):
        encoded = encode_header({name: TensorSpec("F32", (1,))}, {})
        assert len(encoded) % 8 == 0
        assert parse_header(encoded).data_start == len(encoded)


def test_the_committed_stubs_are_what_the_proto_file_generates() -> None:
    assert generate.main(["--check"]) == 0
