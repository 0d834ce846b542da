"""`fedgalore jobs watch` and `wait`: a live table at a terminal, a line for each change elsewhere, statuses alone."""

from __future__ import annotations

from typing import Any

import typer
from rich.console import Console, Group
from rich.live import Live

from fedgalore.spec.amounts import size
from fedgalore_cli import show
from fedgalore_cli.client import Coordinator
from fedgalore_cli.following import Follower, end, has_ended, interruptible
from fedgalore_cli.words import in_words, pooled

LEAST_ROUNDS = 3
FRAME_LINES = 12  # of the screen around clients and rounds: headings, reasons


def watch(coordinator: Coordinator, job_id: str) -> None:
    """Follows a job until it ends or pauses, and ends the command with its exit status."""
    console = show.console()
    with interruptible(job_id):
        follower = Follower(coordinator, job_id)
        job = _live(follower, console) if console.is_terminal else _lines(follower)
    end(job)


def wait(coordinator: Coordinator, job_id: str, timeout_s: float | None) -> None:
    """As `watch`, with a line for each change of the status and nothing else."""
    with interruptible(job_id):
        follower, status = Follower(coordinator, job_id, timeout_s), ""
        while True:
            job = follower.job()
            status = _status_line(job, status)
            if has_ended(job):
                break
            follower.wait()
    end(job)


def _live(follower: Follower, console: Console) -> dict[str, Any]:
    with Live(console=console, refresh_per_second=4) as live:
        while True:
            job, rounds = follower.job(), follower.rounds()
            clients = show.clients(job, rounds)
            newest = rounds[-max(LEAST_ROUNDS, console.height - clients.row_count - FRAME_LINES) :]
            live.update(Group(show.headline(job), "", clients, "", show.rounds(newest)))
            if has_ended(job):
                return job
            follower.wait()


def _lines(follower: Follower) -> dict[str, Any]:
    status = ""
    seen: dict[int, str] = {}
    while True:
        job, rounds = follower.job(), follower.rounds()
        for each in rounds:
            if seen.get(each["number"]) != each["phase"]:
                seen[each["number"]] = each["phase"]
                typer.echo(_line(each))
        status = _status_line(job, status)
        if has_ended(job):
            return job
        follower.wait()


def _status_line(job: dict[str, Any], before: str) -> str:
    """Prints where the job stands, if that is another status than before. Returns the status."""
    status: str = job["status"]
    if status != before:
        typer.echo(f"{job['name']}: {status}: {job['reason']}")
    return status


def _line(round: dict[str, Any]) -> str:
    words = [f"round {round['number']} ({round['kind']}) {round['phase']}"]
    if metrics := pooled(round):
        words.append(f"version {round['model_version']}: {in_words(metrics)}")
    if round["held_out"]:
        words.append(f"held out: {in_words(round['held_out']['metrics'])}")
    if round["held_out_failure"]:
        words.append(f"not evaluated on what the coordinator holds out: {round['held_out_failure']}")
    if round["up_bytes"] or round["down_bytes"]:
        words.append(f"up {size(round['up_bytes'])}, down {size(round['down_bytes'])}")
    if round["reason"]:
        words.append(round["reason"])
    return " · ".join(words)
