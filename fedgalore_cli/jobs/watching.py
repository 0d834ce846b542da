"""`fedgalore jobs watch` and `wait`: a live table at a terminal, a line for each change elsewhere, statuses alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedgalore.spec.amounts import size
from fedgalore_cli.jobs.following import Follower, end, interruptible, on_away, on_back
from fedgalore_cli.options import Format, JobId, Output, Url, connect
from fedgalore_cli.output import record, rounds_bar
from fedgalore_cli.words import in_words, pooled

if TYPE_CHECKING:
    from rich.console import Console

    from fedgalore.client import Client, Job

LEAST_ROUNDS = 3
FRAME_LINES = 12  # of the screen around clients and rounds: headings, reasons


def watch(job: JobId, url: Url = None, output: Output = Format.TABLE) -> None:
    """Follow a job live until it ends or pauses.

    Exit status: 0 completed, 1 failed (or an error), 3 paused, 4 cancelled. Ctrl-C ends the command, not the job. As
    JSON or YAML, its events from the start: until it has ended, also while it is paused.
    """
    with connect(url) as client:
        follow(client, job, output)


def wait(
    job: JobId,
    url: Url = None,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", min=0, help="Seconds to wait at most. Default: without end.")
    ] = None,
    output: Output = Format.TABLE,
) -> None:
    """Wait until a job ends or pauses, with a line for each change of its status: for scripts.

    Exit status: 0 completed, 1 failed (or an error), 3 paused, 4 cancelled, 5 none of these within --timeout. Ctrl-C
    ends the command, not the job.
    """
    status = ""
    with connect(url) as client, interruptible(job), rounds_bar() as drawn:

        def tell(found: Job) -> None:
            nonlocal status
            drawn(found.rounds_done or 0, found.rounds_total)
            if output is Format.TABLE:
                status = _status_line(found, status)

        found = client.wait(job, timeout_s, on_change=tell, on_away=on_away, on_back=on_back)
    if output is not Format.TABLE:
        record(output, found.document())
    end(found)


def follow(client: Client, job_id: str, output: Format = Format.TABLE) -> None:
    """Follows a job until it ends, or for people until it pauses, and ends the command with its exit status."""
    from fedgalore_cli.show.console import console

    if output is not Format.TABLE:
        with interruptible(job_id):
            for event in client.watch(job_id):
                record(output, {"id": event.id, "type": event.type, "data": event.data})
        end(client.job(job_id))
        return
    out = console()
    with interruptible(job_id):
        follower = Follower(client, job_id)
        job = _live(follower, out) if out.is_terminal else _lines(follower)
    end(job)


def _live(follower: Follower, console: Console) -> Job:
    from rich.console import Group
    from rich.live import Live

    from fedgalore_cli.show import job as show

    with Live(console=console, refresh_per_second=4) as live:
        while True:
            job = follower.job()
            document, rounds = job.document(), [each.document() for each in follower.rounds()]
            clients = show.clients(document, rounds)
            newest = rounds[-max(LEAST_ROUNDS, console.height - clients.row_count - FRAME_LINES) :]
            live.update(Group(show.headline(document), "", clients, "", show.rounds(newest)))
            if job.has_ended:
                return job
            follower.wait()


def _lines(follower: Follower) -> Job:
    status = ""
    seen: dict[int, str] = {}
    while True:
        job, rounds = follower.job(), follower.rounds()
        for each in rounds:
            if seen.get(each.number) != each.phase:
                seen[each.number] = each.phase
                typer.echo(_line(each.document()))
        status = _status_line(job, status)
        if job.has_ended:
            return job
        follower.wait()


def _status_line(job: Job, before: str) -> str:
    """Prints where the job stands, if that is another status than before. Returns the status."""
    if job.status != before:
        typer.echo(f"{job.name}: {job.status}: {job.reason}")
    return job.status


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
