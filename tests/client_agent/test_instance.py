"""Which agent calls: an id of its work folder and one of its process."""

from __future__ import annotations

import shutil
from pathlib import Path

from client_agent.instance import INSTANCE_FILE, instance_of


def folder_of(work_dir: Path) -> str:
    return instance_of(work_dir).split("/")[0]


def test_a_folder_keeps_its_id_and_each_process_has_its_own(tmp_path: Path) -> None:
    instances = [instance_of(tmp_path / "work") for _ in range(3)]
    assert len({instance.split("/")[0] for instance in instances}) == 1
    assert len({instance.split("/")[1] for instance in instances}) == 3
    (tmp_path / "work").rename(tmp_path / "moved")
    assert folder_of(tmp_path / "moved") == instances[0].split("/")[0]


def test_a_copy_of_a_folder_is_another(tmp_path: Path) -> None:
    first = folder_of(tmp_path / "work")
    shutil.copytree(tmp_path / "work", tmp_path / "copy")
    assert folder_of(tmp_path / "copy") == folder_of(tmp_path / "copy") != first
    assert folder_of(tmp_path / "work") == first


def test_a_file_that_was_cut_short_is_written_anew(tmp_path: Path) -> None:
    for content in ("", "0123", "0123 x", "a b c"):
        (tmp_path / INSTANCE_FILE).write_text(content)
        assert folder_of(tmp_path) == folder_of(tmp_path)
