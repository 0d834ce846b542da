"""`fedgalore jobs`: post jobs, look at them, steer them, fetch their models and adapters."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from fedgalore_cli.client import DEFAULT_URL, JOBS, AsJson, Coordinator, JobId, Url, job_path, rounds_of
from fedgalore_cli.clone import clone
from fedgalore_cli.errors import fail
from fedgalore_cli.posting import submit, validate

SHOWN = 20  # rounds, with a job
app = typer.Typer(help="Post jobs, watch and steer them, fetch their models and adapters.", no_args_is_help=True)

Folder = Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to create; it must be new or empty.")]
Version = Annotated[
    str,
    typer.Option(
        metavar="last|best|N", help="Version of the model: the newest, the best by evaluation.keep, or one by number."
    ),
]

for command in (validate, submit, clone):
    app.command()(command)


@app.command("list")
def list_jobs(
    url: Url = DEFAULT_URL,
    status: Annotated[
        str | None, typer.Option(help="Only jobs that are PENDING, RUNNING, PAUSED, COMPLETED, FAILED or CANCELLED.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200, help="How many jobs at most, newest first.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List jobs, newest first."""
    from fedgalore_cli import show

    query: dict[str, Any] = {"limit": limit} | ({"status": status.upper()} if status else {})
    with Coordinator(url) as coordinator:
        answer = coordinator.ask("GET", JOBS, params=query)
    nothing = "there are no such jobs: post a job with `fedgalore jobs submit job.yaml`"
    show.listing(answer, "jobs", show.jobs, nothing, as_json)


@app.command()
def get(job: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one job: where it stands and why, its clients, its newest rounds."""
    from fedgalore_cli import show

    with Coordinator(url) as coordinator:
        answer = coordinator.ask("GET", job_path(job))
        if as_json:
            show.as_json(answer)
        else:
            shown_from = max(0, answer["rounds_opened"] - SHOWN)
            show.job(answer, rounds_of(lambda part: coordinator.ask("GET", job_path(job) + part), shown_from))
            if shown_from:
                typer.echo(f"\nFrom round {shown_from + 1} on; `fedgalore jobs rounds {job}` shows all.")


@app.command()
def rounds(job: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show a job's rounds: reports, accuracy, bytes against whole matrices, time."""
    from fedgalore_cli import show

    with Coordinator(url) as coordinator:
        found = rounds_of(lambda part: coordinator.ask("GET", job_path(job) + part))
    if as_json:
        show.as_json({"rounds": found, "next": None})
    else:
        show.console().print(show.rounds(found))


@app.command()
def watch(job: JobId, url: Url = DEFAULT_URL) -> None:
    """Follow a job live until it ends or pauses.

    Exit status: 0 completed, 1 failed (or an error), 3 paused, 4 cancelled. Ctrl-C ends the command, not the job.
    """
    from fedgalore_cli.watch import watch as follow

    with Coordinator(url) as coordinator:
        follow(coordinator, job)


@app.command()
def wait(
    job: JobId,
    url: Url = DEFAULT_URL,
    timeout_s: Annotated[
        float | None, typer.Option("--timeout", min=0, help="Seconds to wait at most. Default: without end.")
    ] = None,
) -> None:
    """Wait until a job ends or pauses, with a line for each change of its status: for scripts.

    Exit status: 0 completed, 1 failed (or an error), 3 paused, 4 cancelled, 5 none of these within --timeout. Ctrl-C
    ends the command, not the job.
    """
    from fedgalore_cli.watch import wait as wait_for

    with Coordinator(url) as coordinator:
        wait_for(coordinator, job, timeout_s)


@app.command()
def pause(job: JobId, url: Url = DEFAULT_URL) -> None:
    """Open no further round. A round in flight goes on to its end."""
    _steer(url, job, "pause")


@app.command()
def resume(job: JobId, url: Url = DEFAULT_URL) -> None:
    """Go on with a paused job."""
    _steer(url, job, "resume")


@app.command()
def rollback(
    job: JobId,
    version: Annotated[str, typer.Option(metavar="N|best", help="Version of the model to go on from.")],
    url: Url = DEFAULT_URL,
) -> None:
    """Make an earlier version of a job's model current again, as a new version from which training goes on.

    A running job goes on at once. A job that is paused, completed, or failed behind its last round is PAUSED until it
    is resumed.
    """
    if version != "best" and not version.isdecimal():
        fail(f"--version: {version!r} is no version; say best, or a version's number")
    wanted = version if version == "best" else int(version)
    with Coordinator(url) as coordinator:
        answer = coordinator.ask("POST", f"{job_path(job)}/rollback", json={"version": wanted})
    typer.echo(f"{answer['id']} is {answer['status']}: {answer['reason']}")


@app.command()
def cancel(job: JobId, url: Url = DEFAULT_URL) -> None:
    """End a job; its newest model versions can still be downloaded."""
    _steer(url, job, "cancel")


@app.command()
def delete(
    job: JobId,
    cancel: Annotated[
        bool, typer.Option("--cancel", "--force", help="Cancel the job first if it has not ended.")
    ] = False,
    url: Url = DEFAULT_URL,
) -> None:
    """Delete a job that has ended, with its rounds and versions, and free what only it holds.

    Download what you want to keep first: there is no way back.
    """
    from fedgalore.spec.amounts import size

    with Coordinator(url) as coordinator:
        answer = coordinator.ask("DELETE", job_path(job), params={"cancel": cancel})
    typer.echo(f"{answer['id']} is deleted; within minutes that frees {size(answer['freed_bytes'])}")


@app.command()
def download(job: JobId, to: Folder, version: Version = "last", url: Url = DEFAULT_URL) -> None:
    """Fetch a job's model as a folder that transformers' `from_pretrained` loads."""
    _fetch(f"{job_path(job)}/model", url, to, version)
    typer.echo(to)


@app.command()
def adapter(
    job: JobId,
    to: Folder,
    rank: Annotated[
        int,
        typer.Option(
            min=1, help="Rank of each matrix's change; nothing is lost where it reaches the rank of the matrix."
        ),
    ] = 16,
    version: Version = "last",
    url: Url = DEFAULT_URL,
) -> None:
    """Fetch what a job taught its model as a LoRA adapter: a folder that PEFT's `PeftModel.from_pretrained` loads.

    It works for every method. The folder's README.md says how to load the adapter. Its fedgalore.json says which share
    of the change the adapter keeps, matrix by matrix.
    """
    _fetch(f"{job_path(job)}/adapter", url, to, version, rank=rank)
    kept = json.loads((to / "fedgalore.json").read_bytes())["energy_kept"]
    typer.echo(f"rank {rank} keeps {100 * kept:.1f} % of the change's energy", err=True)
    typer.echo(to)


def _fetch(path: str, url: str, to: Path, version: str, **query: int | str) -> None:
    """Unpacks the tar that the coordinator answers with into the folder `to`."""
    from fedgalore_cli.download import UnsafeArchive, unpack

    if version not in ("last", "best") and not version.isdecimal():
        fail(f"--version: {version!r} is no version; say last, best, or a version's number")
    query["version"] = version
    try:
        with Coordinator(url) as coordinator, coordinator.stream(path, params=query) as chunks:
            unpack(chunks, to)
    except FileExistsError as error:
        fail(f"--to: {error}; name another folder")
    except (UnsafeArchive, OSError) as error:
        fail(f"--to {to}: {error}; nothing was kept, so try again")


def _steer(url: str, job: str, verb: str) -> None:
    with Coordinator(url) as coordinator:
        answer = coordinator.ask("POST", f"{job_path(job)}/{verb}")
    typer.echo(f"{answer['id']} is {answer['status']}: {answer['reason']}")
