"""What reaches the disk, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What reaches the disk, in order: ("sync" | "rename", inode)."""
    steps: list[tuple[str, int]] = []
    fsync, replace = os.fsync, os.replace

    def noted_sync(descriptor: int) -> None:
        steps.append(("sync", os.fstat(descriptor).st_ino))
        fsync(descriptor)

    def noted_rename(source: Path, target: Path) -> None:
        steps.append(("rename", Path(source).stat().st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_sync)
    monkeypatch.setattr(os, "replace", noted_rename)
    return steps
