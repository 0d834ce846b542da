"""Files that are there whole or not at all, and what of them is on the disk when."""

from __future__ import annotations

import stat
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from fedgalore.process import durable

Replacing = Callable[..., AbstractContextManager[Path]]
BOTH = pytest.mark.parametrize("replacing", [durable.appears_whole, durable.survives_power_cut])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@BOTH
def test_readers_meet_the_old_file_until_the_new_file_is_complete(tmp_path: Path, replacing: Replacing) -> None:
    path = tmp_path / "ports.json"
    for content in ("first", "second"):
        before = path.read_text() if path.exists() else None
        with replacing(path) as draft:
            draft.write_text(content)
            assert (path.read_text() if path.exists() else None) == before
        assert path.read_text() == content
    assert names(tmp_path) == ["ports.json"]


@BOTH
def test_what_fails_leaves_the_old_file_and_no_draft(tmp_path: Path, replacing: Replacing) -> None:
    path = tmp_path / "ports.json"
    path.write_text("old")

    def fails() -> None:
        with replacing(path) as draft:
            draft.write_text("ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert (names(tmp_path), path.read_text()) == (["ports.json"], "old")


@BOTH
def test_a_secret_is_its_owners_alone_from_its_first_byte(tmp_path: Path, replacing: Replacing) -> None:
    path = tmp_path / "agent.key"
    (tmp_path / "agent.key.draft").write_text("of a process that was killed")  # and readable by anybody
    with replacing(path, durable.SECRET) as draft:
        assert stat.S_IMODE(draft.stat().st_mode) == 0o600
        draft.write_text("secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["agent.key"]


def test_what_survives_a_power_cut_has_its_bytes_on_the_disk_before_its_name(
    tmp_path: Path, disk: list[tuple[str, int]]
) -> None:
    path = tmp_path / "store-id"
    with durable.survives_power_cut(path) as draft:
        draft.write_text("id")
    file, folder = path.stat().st_ino, tmp_path.stat().st_ino
    assert disk == [("sync", file), ("rename", file), ("sync", folder)]


def test_what_only_appears_whole_waits_for_no_disk(tmp_path: Path, disk: list[tuple[str, int]]) -> None:
    path = tmp_path / "ports.json"
    with durable.appears_whole(path) as draft:
        draft.write_text("{}")
    assert disk == [("rename", path.stat().st_ino)]


def test_a_new_file_never_takes_anothers_place(tmp_path: Path, disk: list[tuple[str, int]]) -> None:
    path = tmp_path / "token"
    with durable.new_file_survives_power_cut(path, durable.SECRET) as file:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        file.write(b"secret")
    assert path.read_bytes() == b"secret"
    assert disk == [("sync", path.stat().st_ino), ("sync", tmp_path.stat().st_ino)]
    with pytest.raises(FileExistsError), durable.new_file_survives_power_cut(path, durable.SECRET):
        pass
    assert path.read_bytes() == b"secret"


def test_a_new_file_is_gone_when_there_is_nothing_to_put_into_it(tmp_path: Path) -> None:
    with pytest.raises(KeyError), durable.new_file_survives_power_cut(tmp_path / "token"):
        raise KeyError("the coordinator refused")
    assert names(tmp_path) == []


def test_a_folder_appears_with_all_of_its_files_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.mkdir()  # an empty one is replaced
    with durable.folder_appears_whole(path) as draft:
        (draft / "config.json").write_text("{}")
        assert names(path) == []
    assert names(path) == ["config.json"]

    with pytest.raises(OSError, match="not empty"), durable.folder_appears_whole(path) as draft:
        (draft / "other.json").write_text("{}")

    def fails() -> None:
        with durable.folder_appears_whole(tmp_path / "half") as draft:
            (draft / "config.json").write_text("{")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert names(tmp_path) == ["model"]
    assert names(path) == ["config.json"]


def test_a_folder_that_is_there_may_be_a_moment_old(tmp_path: Path, disk: list[tuple[str, int]]) -> None:
    (tmp_path / "ab").mkdir()  # by another process
    for name in ("ab", "ab", "cd", "cd"):
        durable.make_folder(tmp_path / name)
    assert disk == [("sync", tmp_path.stat().st_ino)] * 2  # each once
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        durable.make_folder(tmp_path / "file")


def test_what_is_not_there_cannot_be_synced(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        durable.sync(tmp_path / "nothing")
