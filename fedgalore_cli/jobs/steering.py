"""`fedgalore jobs pause`, `resume`, `rollback`, `cancel`, `delete` and `label`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedgalore_cli.errors import fail
from fedgalore_cli.options import Format, JobId, Output, Url, connect
from fedgalore_cli.output import put

if TYPE_CHECKING:
    from fedgalore.client import Job


def pause(job: JobId, url: Url = None, output: Output = Format.TABLE) -> None:
    """Open no further round. A round in flight goes on to its end."""
    with connect(url) as client:
        _show(client.pause(job), output)


def resume(job: JobId, url: Url = None, output: Output = Format.TABLE) -> None:
    """Go on with a paused job."""
    with connect(url) as client:
        _show(client.resume(job), output)


def rollback(
    job: JobId,
    version: Annotated[str, typer.Option(metavar="N|best", help="Version of the model to go on from.")],
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Make an earlier version of a job's model current again, as a new version from which training goes on.

    A running job goes on at once. A job that is paused, completed, or failed behind its last round is PAUSED until it
    is resumed.
    """
    wanted: int | Literal["best"]
    if version == "best":
        wanted = "best"
    elif version.isdecimal():
        wanted = int(version)
    else:
        fail(f"--version: {version!r} is no version; say best, or a version's number")
    with connect(url) as client:
        _show(client.rollback(job, wanted), output)


def cancel(job: JobId, url: Url = None, output: Output = Format.TABLE) -> None:
    """End a job; its newest model versions can still be downloaded."""
    with connect(url) as client:
        _show(client.cancel(job), output)


def delete(
    job: JobId,
    cancel: Annotated[
        bool, typer.Option("--cancel", "--force", help="Cancel the job first if it has not ended.")
    ] = False,
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Delete a job that has ended, with its rounds and versions, and free what only it holds.

    Download what you want to keep first: there is no way back.
    """
    from fedgalore.spec.amounts import size

    with connect(url) as client:
        gone = client.delete(job, cancel=cancel)
    put(output, gone.document(), f"{gone.id} is deleted; within minutes that frees {size(gone.freed_bytes)}")


def label(
    job: JobId,
    tag: Annotated[
        list[str] | None,
        typer.Option("--tag", help="A tag of all that the job has from now on. Can be given again."),
    ] = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="The job has no tags from now on.")] = False,
    description: Annotated[str | None, typer.Option(help="What the job is for, for people.")] = None,
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Set a job's tags and its description, by which people find it again. What is left out stays as it is."""
    if tag and no_tags:
        fail("--no-tags: does not go with --tag; leave one of the two out")
    if not tag and not no_tags and description is None:
        fail("--tag: nothing is to be changed; give --tag, --no-tags or --description")
    with connect(url) as client:
        found = client.describe(job, tags=[] if no_tags else tag, description=description)
    tags = ", ".join(found.tags) or "no tags"
    put(output, found.document(), f"{found.id}: {tags}" + (f"; {found.description}" if found.description else ""))


def _show(job: Job, output: Format) -> None:
    put(output, job.document(), f"{job.id} is {job.status}: {job.reason}")
