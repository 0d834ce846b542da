"""The process of an aggregator: what it cannot work with ends it with a sentence."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedgalore.process import logs
from fedgalore_cli.main import app


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--blobs", "s3://blobs/x"], "FEDGALORE_BLOBS: a bucket needs obstore; pip install"),
        (["--blob-dir", "/dev/null/blobs"], "FEDGALORE_BLOB_DIR: /dev/null/blobs cannot be used"),
    ],
)
def test_a_place_for_blobs_that_cannot_be_used_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: list[str], words: str
) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    monkeypatch.setattr(logs, "configure", lambda *_: None)  # of all tests that follow
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(app, ["aggregator", *flags])
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert words in ended.stderr and "Traceback" not in ended.stderr
