"""`fedgalore jobs`: post jobs, look at them, steer them, fetch their models and adapters."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedgalore_cli.client import DEFAULT_URL, AsJson, Coordinator, JobId, Url, fail, job_path

app = typer.Typer(help="Post jobs, watch and steer them, fetch their models and adapters.", no_args_is_help=True)
ROOT = "/api/v1/jobs"

Folder = Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to create; it must be new or empty.")]
Version = Annotated[
    str,
    typer.Option(
        metavar="last|best|N", help="Version of the model: the newest, the best by evaluation.keep, or one by number."
    ),
]


Document = Annotated[Path, typer.Argument(metavar="FILE", help="The job as YAML or JSON; `-` reads YAML from stdin.")]
Key = Annotated[
    str | None, typer.Option(help="Idempotency key: submitting again with the same key creates no second job.")
]


@app.command()
def validate(
    document: Document,
    url: Url = DEFAULT_URL,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no coordinator: check the document's fields alone.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check a job without posting it, and print it with all defaults filled in.

    The coordinator refuses here what it would refuse of a posted job. It warns of what it cannot tell yet, and of what
    would keep the rounds waiting, such as a data set that no agent offers.
    """
    from fedgalore_cli import show

    body, kind = _read(document)
    if offline:
        answer = {"job": None, "warnings": [], "spec": _parsed(document, body, kind)}
    else:
        with Coordinator(url) as coordinator:
            answer = coordinator.ask(
                "POST", ROOT, params={"dry_run": True}, content=body, headers={"Content-Type": kind}
            )
    if as_json:
        show.as_json(answer)
        return
    show.warnings(answer["warnings"])
    typer.echo(show.as_yaml(answer["spec"]), nl=False)


@app.command()
def submit(
    document: Document,
    url: Url = DEFAULT_URL,
    key: Key = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Then follow the job, and end with its exit status, as `watch` does.")
    ] = False,
) -> None:
    """Post a job and print its id. Warns of what would keep its rounds waiting."""
    from fedgalore_cli import show

    body, kind = _read(document)
    headers = {"Content-Type": kind} | ({"Idempotency-Key": key} if key is not None else {})
    with Coordinator(url) as coordinator:
        job = coordinator.ask("POST", ROOT, content=body, headers=headers)
        show.warnings(job["warnings"])
        typer.echo(job["id"])
        if watch:
            from fedgalore_cli.watch import watch as follow

            follow(coordinator, job["id"])


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
        answer = coordinator.ask("GET", ROOT, params=query)
    nothing = "there are no such jobs: post a job with `fedgalore jobs submit job.yaml`"
    show.listing(answer, "jobs", show.jobs, nothing, as_json)


@app.command()
def get(job: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show one job: where it stands and why, its clients, its rounds."""
    from fedgalore_cli import show

    with Coordinator(url) as coordinator:
        answer = coordinator.ask("GET", job_path(job))
        if as_json:
            show.as_json(answer)
        else:
            show.job(answer, coordinator.ask("GET", f"{job_path(job)}/rounds")["rounds"])


@app.command()
def rounds(job: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show a job's rounds: reports, accuracy, bytes against whole matrices, time."""
    from fedgalore_cli import show

    with Coordinator(url) as coordinator:
        answer = coordinator.ask("GET", f"{job_path(job)}/rounds")
    if as_json:
        show.as_json(answer)
    else:
        show.console().print(show.rounds(answer["rounds"]))


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
    from fedgalore_cli import show

    with Coordinator(url) as coordinator:
        answer = coordinator.ask("DELETE", job_path(job), params={"cancel": cancel})
    typer.echo(f"{answer['id']} is deleted; within minutes that frees {show.size(answer['freed_bytes'])}")


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


def _read(document: Path) -> tuple[bytes, str]:
    """The bytes of a job's document, and their media type."""
    try:
        body = sys.stdin.buffer.read() if str(document) == "-" else document.read_bytes()
    except OSError as error:
        fail(f"{document} cannot be read ({error.strerror}); name a file that holds a job")
    return body, "application/json" if document.suffix == ".json" else "application/yaml"


def _parsed(document: Path, body: bytes, kind: str) -> Any:
    """The document as a job with its defaults, as the coordinator would show it."""
    from fedgalore.spec import job as job_spec

    try:
        return job_spec.read(body, str(document), is_json=kind == "application/json").model_dump(mode="json")
    except job_spec.SpecError as error:
        fail(str(error))


def _fetch(path: str, url: str, to: Path, version: str, **query: int | str) -> None:
    """Unpacks the tar that the coordinator answers with into the folder `to`."""
    from fedgalore_cli.download import UnsafeArchive, unpack

    if version not in ("last", "best") and not version.isdecimal():
        fail(f"--version: {version} is no version; say last, best, or a version's number")
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
