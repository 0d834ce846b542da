"""Tables that fit the screen."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from rich.console import Console

from fedgalore_cli.show import console as terminal
from fedgalore_cli.show import job as show
from fedgalore_cli.show import lists

METRICS = {"loss": 1.09, "accuracy": 0.45, "auroc": 0.509, "f1": 0.207, "mcc": 0.2891}


@pytest.fixture(params=[80, 250])
def screen(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Console:
    """Where `show` finds its tables to be drawn: a narrow terminal, and a pipe."""
    screen = Console(width=request.param, file=io.StringIO(), highlight=False, markup=False, emoji=False)
    monkeypatch.setattr(terminal, "console", lambda: screen)
    monkeypatch.setattr(show, "console", lambda: screen)
    monkeypatch.setattr(lists, "console", lambda: screen)
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


@pytest.mark.parametrize("clients", [2, 12])
def test_shared_states_are_shown_by_layer_and_by_as_many_clients_as_fit(screen: Console, clients: int) -> None:
    explained = {f"hospital-{number}": number / 16 for number in range(clients)}
    layers = {f"bert.encoder.layer.{layer}": {"joint_rank": 2.5, "explained": explained} for layer in (9, 10)}
    before, now = {"number": 1, "alignment": {}}, {"number": 2, "alignment": layers}
    text = drawn(screen, show.alignment([before, now, {"number": 3, "alignment": {}}]))
    assert "round 2" in text and "…" not in text and " 2.5 " in text
    assert max(map(len, text.splitlines())) <= screen.width
    assert ("hospital-11" in text) == (clients == 12 and screen.width > 80)
    assert show.alignment([before]) is None


def a_record(classes: list[str]) -> dict[str, Any]:
    matrix = [[100 * i + j for j in range(len(classes))] for i in range(len(classes))]
    f1: dict[str, float | None] = dict.fromkeys(classes, 0.25) | {classes[0]: None}
    measured = {"per_class": {"f1": f1}, "confusion_matrix": matrix}
    return {"evaluation": measured, "spec": {"model": {"label_names": classes}}}


def test_classes_show_their_metrics_and_whom_they_were_taken_for(screen: Console) -> None:
    text = drawn(screen, show.classes(a_record(["calm", "[rain]", "wind"])))
    lines = [line.split() for line in text.splitlines()]
    assert lines[0] == ["class", "f1", "as", "calm", "as", "[rain]", "as", "wind"]
    assert lines[1] == ["calm", "-", "0", "1", "2"] and lines[2] == ["[rain]", "25.0", "%", "100", "101", "102"]


def test_a_confusion_matrix_without_room_is_left_out(screen: Console) -> None:
    text = drawn(screen, show.classes(a_record([f"weather-{index}" for index in range(14)])))
    assert ("as weather-13" in text) == (screen.width > 80) and "…" not in text and "weather-13" in text
    assert show.classes(a_record([str(index) for index in range(31)])) is None


def test_a_clients_numbers_are_whole_on_every_screen(screen: Console) -> None:
    record = {"round": None, "evaluation": {"clients": {"hospital-1": {"metrics": METRICS}}}}
    text = drawn(screen, show.clients(record, [a_round()]))
    assert "…" not in text and "hospital-1" in text and "45.0 %" in text and "91.6 MB" in text


def test_lists_have_a_row_a_line_and_lose_nothing_in_a_pipe(
    screen: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    moment = "2026-01-31T12:00:00+00:00"
    job = {"id": "20260131-a1b2c3", "name": "discharge-notes-of-five-hospitals", "status": "PAUSED", "rounds_done": 3}
    job |= {"rounds_total": 20, "method": "fedgalore", "updated": moment, "tags": ["weekly"]}
    job |= {"reason": "round 4 was abandoned: too few"}
    agent = {"name": "hospital-of-the-north-1", "present": True, "datasets": {"discharge-notes": 200, "reports": 1000}}
    agent |= {"software_version": "0.1.0", "last_seen": moment, "task": {"job": "20260131-a1b2c3", "round": 4}}
    agent |= {"teams": ["radiology"]}
    for show_rows, row, everywhere, in_a_pipe in (
        (lists.jobs, job, (job["id"], job["name"], "PAUSED", "3 / 20", job["reason"]), ("fedgalore",)),
        (lists.agents, agent, (agent["name"], "yes"), ("discharge-notes (200), reports (1000)", "round 4")),
    ):
        with screen.capture() as capture:
            show_rows([row])
        heading, line, *below = capture.get().splitlines()
        assert all(word in "\n".join([line, *below]) for word in everywhere)
        assert all(word in line for word in in_a_pipe) or screen.width == 80
        assert max(map(len, (heading, line, *below))) <= screen.width
        assert (below == []) or (screen.width == 80 and row is job)
        assert ("no room for" in capsys.readouterr().err) == (screen.width == 80)


HOSTILE = "[/x] [bold] :warning: \\"


def test_what_strangers_wrote_is_printed_as_it_stands(screen: Console) -> None:
    part = {
        "reported": False,
        "up_bytes": 2**63,
        "down_bytes": 1,
        "failure": HOSTILE,
        "failure_code": "policy.eps",
        "stage": "train",
        "step": 1,
    }
    measured = {"loss": 1e299, "accuracy": -1e299, HOSTILE: 1e-300}
    evaluation = {"model_version": 1, "examples": 2**63, "metrics": measured, "clients": {"a": {"metrics": measured}}}
    reasons = dict.fromkeys(("name", "reason", "held_out_failure", "no_best"), HOSTILE)
    record = reasons | {
        "id": "1",
        "status": "PAUSED",
        "model_version": 1,
        "rounds_done": 1,
        "rounds_total": 2,
        "evaluation": {**evaluation, "undefined": {HOSTILE: HOSTILE}, "per_class": {}, "confusion_matrix": None},
        "held_out": None,
        "trains": None,
        "notes": [HOSTILE],
        "warnings": [{"field": HOSTILE, "problem": "other"}],
        "sites": {"a": {"fits": False, "problem": HOSTILE, "code": "policy.eps"}},
        "best": None,
        "up_bytes": 1,
        "down_bytes": 1,
        "round": {"participants": {"a": {**part, "train_loss": 1.7e308}, "b": {**part, "failure": None}}},
        "spec": {"model": {"label_names": [HOSTILE]}},
    }
    row = a_round() | {"phase": "ABANDONED", "reason": HOSTILE, "evaluation": evaluation, "alignment": {}}
    show.job(record, [row | {"participants": {HOSTILE: part}}])
    text = screen.file.getvalue()  # type: ignore[attr-defined]
    assert text.count("[/x] [bold] :warning:") >= 9
    assert max(map(len, text.splitlines())) <= screen.width


def test_many_values_are_printed_at_once_in_columns(capsys: pytest.CaptureFixture[str]) -> None:
    row = {"round": 3, "model_version": 2, "client": None, "source": "traffic", "metric": "up_bytes", "value": 12.0}
    began = time.monotonic()
    lists.metrics([row | {"round": number, "client": "north" if number % 2 else None} for number in range(20_000)])
    assert time.monotonic() - began < 5  # laid out for a screen it takes ten times as long
    header, first, *_, last = capsys.readouterr().out.splitlines()
    assert header.split() == ["round", "version", "client", "source", "metric", "value"]
    assert (first.split()[:3], last.split()[:3]) == (["0", "2", "-"], ["19999", "2", "north"])
    assert header.index("source") == first.index("traffic") == last.index("traffic")
