"""Hashes that outlive a restart, and never the content that they are of."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from client_agent import hashes
from client_agent.hashes import Hashes
from fedgalore.process.content_folder import hash_file


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the files that were read through, in turn."""
    names: list[str] = []

    def reading(path: Path) -> str:
        names.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(hashes, "hash_file", reading)
    monkeypatch.setattr(hashes, "SETTLED_S", 0.0)
    return names


def test_a_file_is_read_once_also_across_restarts(tmp_path: Path, read: list[str]) -> None:
    large, store = tmp_path / "model.safetensors", tmp_path / "hashes.json"
    large.write_bytes(b"tensors")
    assert {Hashes(store).of(large) for _ in range(3)} == {hash_file(large)}
    assert read == ["model.safetensors"]


def test_what_has_changed_is_read_again_whatever_its_size_and_time(tmp_path: Path, read: list[str]) -> None:
    large, known = tmp_path / "model.safetensors", Hashes(tmp_path / "hashes.json")
    large.write_bytes(b"tensors")
    first, stamp = known.of(large), large.stat()
    large.write_bytes(b"changed")
    os.utime(large, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert known.of(large) == hash_file(large) != first
    other = tmp_path / "other"
    other.write_bytes(b"tensors")
    other.replace(large)
    assert known.of(large) == first


def test_a_file_that_was_just_written_is_not_trusted(tmp_path: Path, read: list[str]) -> None:
    hashes.SETTLED_S = 60.0
    large, known = tmp_path / "model.safetensors", Hashes(tmp_path / "hashes.json")
    large.write_bytes(b"tensors")
    assert known.of(large) == known.of(large)
    assert len(read) == 2


@pytest.mark.parametrize("content", [b"", b"[]", b"nonsense", b'{"a": 1}', b"\xff"])
def test_a_store_that_cannot_be_read_costs_time_only(tmp_path: Path, read: list[str], content: bytes) -> None:
    (tmp_path / "hashes.json").write_bytes(content)
    (tmp_path / "file").write_bytes(b"tensors")
    assert Hashes(tmp_path / "hashes.json").of(tmp_path / "file") == hash_file(tmp_path / "file")
    assert Hashes(tmp_path / "nowhere" / "hashes.json").of(tmp_path / "file") == hash_file(tmp_path / "file")
