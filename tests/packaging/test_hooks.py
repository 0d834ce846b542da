"""The hooks of a commit: sites without a way out can use them, for they run what `make` has installed."""

from __future__ import annotations

from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def test_hooks_fetch_nothing_and_run_what_make_check_runs() -> None:
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    checks = (ROOT / "Makefile").read_text().replace("$(BIN)/", ".venv/bin/")
    for hook in repositories[0]["hooks"]:
        assert hook["language"] == "unsupported"  # pre-commit makes no environment for it
        command = hook["entry"].replace("--force-exclude", "").strip()
        assert command in checks or f"{command} --check" in checks
