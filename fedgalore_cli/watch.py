"""`fedgalore jobs watch`: a live table at a terminal, a line for each change elsewhere."""

from __future__ import annotations

import time
from typing import Any

import typer
from rich.console import Console, Group
from rich.live import Live

from fedgalore_cli import show
from fedgalore_cli.client import Coordinator, RequestRefused, Unreachable, fail, job_path

POLL_S = 1.0
PATIENCE_S = 60.0  # a coordinator that restarts comes back well before
FINAL = ("COMPLETED", "FAILED", "CANCELLED")
LEAST_ROUNDS = 3
FRAME_LINES = 12  # of the screen around clients and rounds: headings, reasons


def watch(coordinator: Coordinator, job_id: str) -> None:
    """Follows a job to its end. The command fails if the job does not complete."""
    console = show.console()
    job = _live(coordinator, job_id, console) if console.is_terminal else _lines(coordinator, job_id)
    if job["status"] != "COMPLETED":
        fail(f"job {job_id} is {job['status']}: {job['reason']}")


def _live(coordinator: Coordinator, job_id: str, console: Console) -> dict[str, Any]:
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            job, rounds = _look(coordinator, job_id)
            clients = show.clients(job, rounds)
            newest = rounds[-max(LEAST_ROUNDS, console.height - clients.row_count - FRAME_LINES) :]
            live.update(Group(show.headline(job), "", clients, "", show.rounds(newest)))
            if job["status"] in FINAL:
                return job
            time.sleep(POLL_S)


def _lines(coordinator: Coordinator, job_id: str) -> dict[str, Any]:
    status = ""
    seen: dict[int, str] = {}
    while True:
        job, rounds = _look(coordinator, job_id)
        for each in rounds:
            if seen.get(each["number"]) != each["phase"]:
                seen[each["number"]] = each["phase"]
                typer.echo(_line(each))
        if job["status"] != status:
            status = job["status"]
            typer.echo(f"{job['name']}: {status}: {job['reason']}")
        if status in FINAL:
            return job
        time.sleep(POLL_S)


def _line(round: dict[str, Any]) -> str:
    words = [f"round {round['number']} ({round['kind']}) {round['phase']}"]
    accuracy, exact_match, loss = (show.mean(round, metric) for metric in ("accuracy", "exact_match", "loss"))
    if loss is not None:
        words.append(f"version {round['model_version']}: loss {show.number(loss)}")
    if accuracy is not None:
        words.append(f"accuracy {show.percent(accuracy)}")
    if exact_match is not None:
        words.append(f"exact match {show.percent(exact_match)}")
    if round["up_bytes"] or round["down_bytes"]:
        words.append(f"up {show.size(round['up_bytes'])}, down {show.size(round['down_bytes'])}")
    if round["reason"]:
        words.append(round["reason"])
    return " · ".join(words)


def _look(coordinator: Coordinator, job_id: str) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The job and its rounds; waits while the coordinator is away."""
    path = job_path(job_id)
    end = time.monotonic() + PATIENCE_S
    while True:
        try:
            # The job first: the rounds of a final job do not change any more.
            job = coordinator.try_to_ask("GET", path)
            return job, coordinator.try_to_ask("GET", f"{path}/rounds")["rounds"]
        except RequestRefused as error:
            fail(str(error))
        except Unreachable as error:
            if time.monotonic() > end:
                fail(str(error))
        time.sleep(POLL_S)
