"""Where a model lies: folders are checked at once, hub ids only when the model is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.models.source import SourceError, fetched_folder, local_folder


def test_a_model_folder_is_accepted(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert local_folder(str(tmp_path)) == tmp_path
    assert fetched_folder(str(tmp_path)) == tmp_path


@pytest.mark.parametrize("source", ["./nowhere", "/nowhere/at/all", "~/nowhere", "some/deep/path"])
def test_a_path_without_a_folder_is_refused_in_words(source: str) -> None:
    with pytest.raises(SourceError, match="has no folder"):
        local_folder(source)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no config.json"):
        local_folder(str(tmp_path))


@pytest.mark.parametrize("source", ["x" * 5000, "~nobody-of-this-name/model"])
def test_a_path_that_no_system_has_is_refused_in_words(source: str) -> None:
    with pytest.raises(SourceError, match="cannot be read .*; correct the path"):
        local_folder(source)


def test_a_folder_with_a_link_to_a_file_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (tmp_path / "secret").write_text("key")
    (folder / "vocab.txt").symlink_to("../secret")
    with pytest.raises(SourceError, match=r"vocab\.txt in .*/model is a link that leads out of it; copy the file"):
        fetched_folder(str(folder))


@pytest.mark.parametrize("source", ["gpt2", "org/model"])
def test_a_hub_id_is_left_to_the_fetch(source: str) -> None:
    assert local_folder(source) is None


def test_an_unreachable_hub_is_reported_with_a_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SourceError, match="place the model on the coordinator"):
        fetched_folder("fedgalore-tests/no-such-model")
