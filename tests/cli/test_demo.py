"""The demo's folder: an earlier demo's results make room, a user's own files never do."""

from __future__ import annotations

from pathlib import Path

import pytest
import typer

from cli.demo import MARK, _make_room


def test_an_earlier_demo_makes_room_and_what_else_lies_there_stays(tmp_path: Path) -> None:
    folder = tmp_path / "demo-run"
    _make_room(folder)
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    _make_room(folder)
    assert sorted(path.name for path in folder.iterdir()) == [MARK, "notes.txt"]


@pytest.mark.parametrize("name", ["result.json", "federation/README.md"])
def test_a_folder_that_no_demo_made_is_left_alone(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(typer.Exit):
        _make_room(tmp_path)
    assert (tmp_path / name).read_text() == "mine"
    assert "name another folder" in capsys.readouterr().err
