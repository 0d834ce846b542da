"""The file of the version that an agent holds: what a restart takes up, and what it leaves alone."""

from __future__ import annotations

import pytest
import torch

from client_agent import tensor_files
from client_agent.tensor_files import FileTensors, VersionFile, forget
from fedgalore.spec.plan import TensorSpec
from protos.codec import CodecError, SafetensorsWriter, open_update

SPECS = {"a": TensorSpec("F32", (2, 3)), "b": TensorSpec("F32", (3,)), "a/step": TensorSpec("U8", (10,))}


def drawn(seed, names=SPECS):
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(SPECS[name].shape, generator=generator) for name in names}
    return {n: t if SPECS[n].dtype == "F32" else (t * 9).to(torch.uint8) for n, t in tensors.items()}


def equal(held, tensors):
    return set(held) == set(tensors) and all(torch.equal(held[name], tensors[name]) for name in tensors)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "job.weights"


def test_a_version_goes_on_in_place_and_gains_its_last_step(path):
    first, second = drawn(0, ["a", "b"]), drawn(1)
    held = VersionFile.written(path, SPECS, first.items())
    size = path.stat().st_size
    assert equal(held, first) and "a/step" not in held and len(held) == 2
    before = held["a"]
    held.replace(second.items())
    assert equal(held, second)
    assert path.stat().st_size == size
    assert torch.equal(before, first["a"])  # copies do not change with the file


def test_a_later_process_takes_up_what_the_note_says(path):
    held = VersionFile.written(path, SPECS, drawn(0, ["a", "b"]).items())
    assert VersionFile.noted(path, SPECS) is None  # nobody has said which version it is
    held.note("id", 3)
    found, known_as, steps = VersionFile.noted(path, SPECS)
    assert (known_as, steps) == ("id", 3)
    assert equal(found, drawn(0, ["a", "b"]))
    found.replace(drawn(1).items())
    assert VersionFile.noted(path, SPECS) is None


def test_what_was_cut_short_is_no_version(path):
    held = VersionFile.written(path, SPECS, drawn(0).items())
    held.note("id", 0)

    def ends_early():
        yield "a", drawn(1)["a"]
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        held.replace(ends_early())
    assert VersionFile.noted(path, SPECS) is None


@pytest.mark.parametrize("spoil", ["boot", "other tensors", "no note", "torn note", "no file", "torn file"])
def test_what_cannot_be_trusted_is_left_alone(path, spoil, monkeypatch, tmp_path):
    VersionFile.written(path, SPECS, drawn(0).items()).note("id", 0)
    specs, note = SPECS, path.with_suffix(".json")
    match spoil:
        case "boot":
            (tmp_path / "boot").write_text("another run of the machine")
            monkeypatch.setattr(tensor_files, "_BOOT_ID", tmp_path / "boot")
        case "other tensors":
            specs = {"a": SPECS["a"]}
        case "no note":
            note.unlink()
        case "torn note":
            note.write_bytes(note.read_bytes()[:20])
        case "no file":
            path.unlink()
        case "torn file":
            path.write_bytes(path.read_bytes()[:-1])
    assert VersionFile.noted(path, specs) is None
    forget(path)
    assert list(tmp_path.glob("job.*")) == []


@pytest.mark.parametrize("names", [["a", "b"], list(SPECS)])
def test_a_checkpoint_becomes_the_file_of_the_version(path, tmp_path, names):
    checkpoint = tmp_path / "checkpoint"
    with SafetensorsWriter(checkpoint, {name: SPECS[name] for name in names}, {"version": "1"}) as writer:
        for name, tensor in drawn(2, names).items():
            writer.write(name, tensor.numpy())
    VersionFile.written(path, SPECS, drawn(0).items()).note("old", 0)
    held = VersionFile.of_checkpoint(path, checkpoint, SPECS)
    assert equal(held, drawn(2, names))
    assert not checkpoint.exists()
    assert VersionFile.noted(path, SPECS) is None
    held.replace(drawn(3).items())
    assert equal(held, drawn(3))


def test_a_checkpoint_without_a_weight_is_refused_and_stays(path, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    with SafetensorsWriter(checkpoint, {"a": SPECS["a"]}, {}) as writer:
        writer.write("a", drawn(0)["a"].numpy())
    with pytest.raises(CodecError, match="no tensor 'b'"):
        VersionFile.of_checkpoint(path, checkpoint, SPECS)
    assert equal(FileTensors(open_update(checkpoint)), {"a": drawn(0)["a"]})


def test_a_tensor_of_another_size_is_refused(path):
    held = VersionFile.written(path, SPECS, drawn(0).items())
    with pytest.raises(CodecError, match="its place has 24"):
        held.replace({"a": torch.zeros(2, 2)}.items())
