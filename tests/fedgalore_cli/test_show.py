"""Tables that fit the screen."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from fedgalore_cli import show

METRICS = {"loss": 1.09, "accuracy": 0.45, "auroc": 0.509, "f1": 0.207, "mcc": 0.2891}


@pytest.fixture(params=[80, 250])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Console:
    """Where `show` finds its tables to be drawn: a narrow terminal, and a pipe."""
    screen = Console(width=request.param, file=io.StringIO(), highlight=False)
    monkeypatch.setattr(show, "console", lambda: screen)
    return screen


def drawn(screen: Console, table: Any) -> str:
    with screen.capture() as capture:
        screen.print(table)
    return capture.get()


def a_round() -> dict[str, Any]:
    part = {"reported": True, "up_bytes": 2_050_000, "down_bytes": 91_600_000}
    return {
        "number": 17,
        "kind": "evaluate",
        "phase": "COMMITTED",
        "participants": {"hospital-1": part, "hospital-2": part},
        "evaluation": {"metrics": METRICS},
        "dense_bytes": 43_000_000,
        "up_bytes": 4_100_000,
        "down_bytes": 183_200_000,
        "phase_s": {"REPORTING": 14.8},
    }


def test_a_rounds_numbers_are_whole_on_every_screen(screen: Console) -> None:
    text = drawn(screen, show.rounds([a_round()]))
    assert "…" not in text and len(text.splitlines()) == 2
    assert all(cell in text for cell in ("17 (test)", "45.0 %", "1.0900", "183.2 MB", "14.8 s"))
    assert ("mcc" in text) == (screen.width > 80), "metrics are left out where there is no room, and only there"


def test_a_clients_numbers_are_whole_on_every_screen(screen: Console) -> None:
    record = {"round": None, "evaluation": {"clients": {"hospital-1": {"metrics": METRICS}}}}
    text = drawn(screen, show.clients(record, [a_round()]))
    assert "…" not in text and "hospital-1" in text and "45.0 %" in text and "91.6 MB" in text
