"""`fedgalore jobs list`, `get`, `rounds` and `metrics`."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from fedgalore_cli.options import Format, JobId, Output, Url, connect
from fedgalore_cli.output import listing, note, put

Source = Literal["evaluation", "training", "held_out", "server", "traffic"]
SHOWN = 20  # rounds, with a job
STATUSES = "PENDING, RUNNING, PAUSED, COMPLETED, FAILED or CANCELLED"
Tags = Annotated[list[str] | None, typer.Option("--tag", help="Only with this tag. Can be given again: with all.")]


def list_jobs(
    url: Url = None,
    status: Annotated[
        list[str] | None, typer.Option(help=f"Only jobs that are {STATUSES}. Can be given again: any of these.")
    ] = None,
    name: Annotated[str, typer.Option(help="Only jobs with this in their name.")] = "",
    method: Annotated[
        list[str] | None, typer.Option(help="Only of this method, such as fedgalore. Can be given again: any.")
    ] = None,
    tag: Tags = None,
    limit: Annotated[int, typer.Option(min=1, help="How many jobs at most, newest first.")] = 50,
    output: Output = Format.TABLE,
) -> None:
    """List jobs, newest first."""
    from fedgalore_cli.show import lists

    wanted: dict[str, Any] = {"status": status or (), "name": name, "method": method or (), "tag": tag or ()}
    with connect(url) as client:
        rows = [job.document() for job in client.jobs(**wanted, limit=limit)]
    nothing = "there are no such jobs: post a job with `fedgalore jobs submit job.yaml`"
    listing(output, "jobs", rows, lambda: lists.jobs(rows), nothing)


def get(job: JobId, url: Url = None, output: Output = Format.TABLE) -> None:
    """Show one job: where it stands and why, its clients, its newest rounds."""
    from fedgalore_cli.show import job as show

    with connect(url) as client:
        found = client.job(job)
        shown_from = max(0, found.rounds_opened - SHOWN)
        rounds = [] if output is not Format.TABLE else client.rounds(job, after=shown_from)
    document, rows = found.document(), [each.document() for each in rounds]
    put(output, document, lambda: show.job(document, rows))
    if output is Format.TABLE and shown_from:
        note(f"\nFrom round {shown_from + 1} on; `fedgalore jobs rounds {job}` shows all.")


def rounds(job: JobId, url: Url = None, output: Output = Format.TABLE) -> None:
    """Show a job's rounds: reports, accuracy, bytes against whole matrices, time."""
    from fedgalore_cli.show import job as show
    from fedgalore_cli.show.console import console

    with connect(url) as client:
        found = [each.document() for each in client.rounds(job)]
    put(output, {"rounds": found}, lambda: console().print(show.rounds(found)))


def metrics(
    job: JobId,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="Only this metric, such as accuracy. Can be given again.")
    ] = None,
    source: Annotated[Source | None, typer.Option(help="Only of this source.")] = None,
    client: Annotated[
        list[str] | None, typer.Option("--client", help="Only of this client. Can be given again.")
    ] = None,
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Print what was measured in a job's rounds, a row for each value.

    Sources: `evaluation`, on clients' test examples; `held_out`, on what the coordinator holds out; `training`, while
    they trained; `server`, of matrices and seconds; `traffic`, bytes. Without a client, of all of them together.
    """
    from fedgalore_cli.show import lists

    with connect(url) as coordinator:
        found = coordinator.metrics(job)
    kept = {"metric": metric, "client": client, "source": [source] if source else None}
    rows = [row for row in found if all(not values or row[name] in values for name, values in kept.items())]
    nothing = f"nothing such was measured yet; `fedgalore jobs rounds {job}` shows the rounds"
    listing(output, "metrics", rows, lambda: lists.metrics(rows), nothing)
