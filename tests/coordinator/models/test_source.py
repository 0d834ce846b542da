"""Where a model lies: folders are checked at once, hub ids only when the model is fetched."""

from __future__ import annotations

from pathlib import Path

import pytest

from coordinator.models.source import SourceError, check_folder, fetched_folder, is_cached, local_folder


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


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("{", "config.json of .* is not JSON"),
        ("[]", "holds no mapping"),
        ("{}", "has no weights, such as model.safetensors"),
        ('{"auto_map": {"AutoModel": "code.Model"}}', "asks for code by auto_map"),
    ],
)
def test_what_cannot_be_a_model_is_refused_before_its_weights_are_read(
    config: str, problem: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(config)
    if "auto_map" in config:
        (tmp_path / "model.safetensors").write_bytes(b"not read")
    with pytest.raises(SourceError, match=problem):
        check_folder(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"not read")
    check_folder(tmp_path)


def test_a_model_that_was_fetched_before_is_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert not is_cached("org/model")
    repository = tmp_path / "models--org--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (repository / "snapshots" / ("0" * 40) / "config.json").write_text("{}")
    assert is_cached("org/model")


@pytest.mark.parametrize("source", ["my model", "a--b", "x" * 200])
def test_what_can_be_no_name_on_the_hub_is_refused(source: str) -> None:
    with pytest.raises(SourceError, match="neither a folder here nor a name"):
        is_cached(source)
