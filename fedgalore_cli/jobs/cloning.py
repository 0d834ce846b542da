"""`fedgalore jobs clone`: a mended copy of a job, which starts from a version of the old one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedgalore_cli.errors import fail
from fedgalore_cli.jobs.posting import Key, Watch, show_posted, show_review
from fedgalore_cli.options import Format, JobId, Output, Url, connect
from fedgalore_cli.output import note

if TYPE_CHECKING:
    from fedgalore.client import Job


def clone(
    job: JobId,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PATH=VALUE",
            help="A field of the copy and its value as YAML, such as local.learning_rate=1.0e-4 or "
            "model.label_names[0]=calm. Can be given again.",
        ),
    ] = None,
    version: Annotated[
        str | None,
        typer.Option(metavar="last|best|N", help="Version of the old job that the copy starts from. Default: last."),
    ] = None,
    from_base: Annotated[
        bool, typer.Option("--from-base", help="Start from what the old job started from, and not from its result.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Make no job: show the changes, and check the copy as `validate` does.")
    ] = False,
    key: Key = None,
    watch: Watch = False,
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Post a mended copy of a job, and print its id.

    The copy starts from what a download of the old job's version holds; the old job may go on, or have ended. What is
    changed is shown on stderr as a diff of the documents.
    """
    from fedgalore_cli.mend import MendError, diff, mended

    if from_base and version is not None:
        fail("--version: --from-base starts from no version; leave one of the two out")
    with connect(url) as client:
        old = client.job(job)
        copy = old.spec if from_base else {**old.spec, "model": _started(old, version or "last")}
        try:
            copy = mended(copy, assignments or [])
        except MendError as error:
            fail(str(error))
        note(diff(old.spec, copy) or "the copy equals the old job")
        if dry_run:
            show_review(client.validate(copy, idempotency=key, team=old.team).document(), output)
        else:
            show_posted(client, client.submit(copy, idempotency=key, team=old.team), watch, output)


def _started(old: Job, version: str) -> dict[str, Any]:
    """The model section of a copy that starts from this version of the old job."""
    if version == "last":
        number = old.model_version
        if number is None:
            fail(f"--version: job {old.id} is {old.status} and has no version; start the copy with --from-base")
    elif version == "best":
        if old.best is None:
            fail(f"--version: job {old.id} has no best version; say last or a number, or keep it by evaluation.keep")
        number = old.best.model_version
    elif version.isdecimal():
        number = int(version)
    else:
        fail(f"--version: {version!r} is no version; say last, best, or a version's number")
    return {**old.spec["model"], "source": f"job:{old.id}@{number}"}
