"""A coordinator is killed while sites train: what each process does, from a real run's logs."""

from __future__ import annotations

import json
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.kills.fedgalore import document, tiny_bert
from benchmarks.pictures.style import BLUE, GREEN, GREY, ORANGE, RED, figure
from fedgalore_cli.demo.job import agent_documents
from fedgalore_cli.demo.sites import demo_sites
from fedgalore_cli.local import LocalFederation

DOWN_S = 4
PHASES = {"CONFIGURATION": GREY, "REPORTING": BLUE, "AGGREGATION": ORANGE}
STAGES = {"preparing": GREY, "training": BLUE, "uploading": GREEN}


@dataclass(frozen=True)
class Span:
    """From `since` to `until`, Unix times, something was in this state."""

    what: str
    since: float
    until: float


def draw(to: Path) -> None:
    """Runs a job of three rounds at two sites, kills the coordinator in the second, and draws who did what when."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        agents = agent_documents(demo_sites(2, 0.1, 0), root / "data")
        job = document(tiny_bert(root / "model"))
        job["rounds"]["count"] = 3
        with LocalFederation(root / "run", agents) as federation:
            rounds, dead = _killed(federation, job)
            logs = {agent: list(_stages(process.log)) for agent, process in federation.agents.items()}
    _drawn(to, list(_phases(rounds)), dead, logs)


def _killed(federation: LocalFederation, job: dict[str, Any]) -> tuple[list[dict[str, Any]], Span]:
    """The job's rounds, and the time in which there was no coordinator."""
    with federation.http() as http:
        url = f"/api/v1/jobs/{http.post('/api/v1/jobs', json=job).raise_for_status().json()['id']}"
        while not _trains(http.get(url).json()["round"]):
            time.sleep(0.1)
        since = time.time()
        federation.stop_coordinator(signal.SIGKILL)
        time.sleep(DOWN_S)
        federation.start_coordinator()
        until = time.time()
    with federation.http() as http:
        while (status := http.get(url).json()["status"]) != "COMPLETED":
            if status in ("FAILED", "PAUSED"):
                raise SystemExit(f"the job is {status}")
            time.sleep(0.5)
        return http.get(f"{url}/rounds").json()["rounds"], Span("dead", since, until)


def _trains(flying: dict[str, Any] | None) -> bool:
    """Whether clients of the second round train, and none has reported."""
    if not flying or flying["number"] < 2:
        return False
    parts = flying["participants"].values()
    return any(part["stage"] == "train" for part in parts) and not any(part["reported"] for part in parts)


def _phases(rounds: list[dict[str, Any]]) -> Iterator[Span]:
    for entry in rounds:
        times = sorted((datetime.fromisoformat(at).timestamp(), phase) for phase, at in entry["phase_at"].items())
        for (since, phase), (until, _) in pairwise(times):
            yield Span(phase, since, until)


def _stages(log: Path) -> Iterator[Span]:
    """What an agent did, by its log."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    moves = [
        (datetime.fromisoformat(entry["timestamp"]).timestamp(), entry["state"])
        for entry in entries
        if "state" in entry
    ]
    for (since, state), (until, _) in pairwise(moves):
        yield Span(state.lower(), since, until)


def _drawn(to: Path, phases: list[Span], dead: Span, logs: dict[str, list[Span]]) -> None:
    start, end = min(span.since for span in phases), max(span.until for span in phases)
    lanes = ["round", "coordinator", *logs]
    with figure(to, 1, 9.5, 3.4) as axes:

        def bar(lane: int, span: Span, colour: str, **more: Any) -> None:
            since = max(span.since, start)
            if span.until > since and since < end:
                axes.barh(lane, span.until - since, left=since - start, color=colour, height=0.55, **more)

        for span in phases:
            if span.what in PHASES:
                bar(0, span, PHASES[span.what])
        bar(1, Span("alive", start, dead.since), GREEN)
        bar(1, Span("alive", dead.until, end), GREEN)
        axes.text(dead.since - start + 0.1, 1, "SIGKILL", color=RED, va="center", weight="bold", fontsize=9)
        axes.axvspan(dead.since - start, dead.until - start, color=RED, alpha=0.08)
        for lane, spans in enumerate(logs.values(), start=2):
            for span in spans:
                if span.what in STAGES:
                    bar(lane, span, STAGES[span.what])
        for colour, label in (
            (GREY, "gets ready"),
            (BLUE, "trains, or waits for updates"),
            (GREEN, "is alive, or uploads"),
            (ORANGE, "aggregates"),
        ):
            axes.barh(0, 0, color=colour, label=label)
        axes.set_yticks(range(len(lanes)), lanes)
        axes.invert_yaxis()
        axes.set(
            title="The coordinator is killed while round 2 trains; no step is repeated",
            xlabel="seconds",
            xlim=(0, end - start),
        )
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=4, fontsize=9)
