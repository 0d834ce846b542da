"""Diagrams from transition tables: every move is there, and a changed table makes the page stale."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import pytest

from coordinator.state.job_events import Pause
from coordinator.state.job_state import Status
from fedgalore.process.transitions import to
from tools import state_diagrams


class Door(Enum):
    SHUT = 1
    OPEN = 2
    GONE = 3


class Push: ...


class Fire: ...


def nothing() -> None: ...


def test_a_diagram_names_each_move_once_with_all_its_events() -> None:
    table = {
        (Door.OPEN, Fire): to(nothing, Door.GONE),
        (Door.OPEN, Push): to(nothing, Door.SHUT, Door.GONE),
        (Door.SHUT, Push): to(nothing, Door.OPEN, Door.SHUT),
    }
    assert state_diagrams.diagram(table).splitlines() == [
        "```mermaid",
        "stateDiagram-v2",
        "    [*] --> SHUT",
        "    SHUT --> OPEN: Push",
        "    OPEN --> SHUT: Push",
        "    OPEN --> GONE: Fire, Push",
        "    GONE --> [*]",
        "```",
    ]


def test_the_page_shows_the_tables_as_they_are() -> None:
    assert state_diagrams.main(["--check"]) == 0


def test_a_table_that_changed_makes_the_page_stale(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    page = tmp_path / "ARCHITECTURE.md"
    page.write_text(state_diagrams.PAGE.read_text())
    monkeypatch.setattr(state_diagrams, "PAGE", page)
    jobs = {**state_diagrams.TABLES["job-states"], (Status.PENDING, Pause): to(nothing, Status.PAUSED)}
    monkeypatch.setitem(state_diagrams.TABLES, "job-states", jobs)
    assert state_diagrams.main(["--check"]) == 1
    assert state_diagrams.main([]) == 0
    assert "    PENDING --> PAUSED: SitesSeen, Pause\n" in page.read_text()
