"""`fedgalore jobs validate` and `submit`: a job's document on its way to the coordinator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedgalore_cli.errors import fail
from fedgalore_cli.options import Format, Output, Url, connect
from fedgalore_cli.output import as_yaml, put, record, warnings

if TYPE_CHECKING:
    from fedgalore.client import Client, Job

Document = Annotated[Path, typer.Argument(metavar="FILE", help="The job as YAML or JSON; `-` reads YAML from stdin.")]
Key = Annotated[
    str | None, typer.Option(help="Idempotency key: submitting again with the same key creates no second job.")
]
Team = Annotated[
    str | None, typer.Option(help="Whose job it is, where your key or login is good in several teams, or in all.")
]
Watch = Annotated[
    bool, typer.Option("--watch", help="Then follow the job, and end with its exit status, as `watch` does.")
]


def validate(
    document: Document,
    team: Team = None,
    url: Url = None,
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask no coordinator: check the document's fields alone.")
    ] = False,
    output: Output = Format.TABLE,
) -> None:
    """Check a job without posting it, and print it with all defaults filled in.

    The coordinator refuses here what it would refuse of a posted job. It warns of what it cannot tell yet, and of what
    would keep the rounds waiting, such as a data set that no agent offers.
    """
    if offline:
        spec = _parsed(document)
        show_review({"valid": True, "errors": [], "job": None, "warnings": [], "spec": spec}, output)
        return
    with connect(url) as client:
        show_review(client.validate(_read(document), team=team).document(), output)


def submit(
    document: Document,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="A tag to find the job by. Can be given again.")
    ] = None,
    description: Annotated[str | None, typer.Option(help="What the job is for, for people.")] = None,
    team: Team = None,
    url: Url = None,
    key: Key = None,
    watch: Watch = False,
    output: Output = Format.TABLE,
) -> None:
    """Post a job and print its id. Warns of what would keep its rounds waiting."""
    body = _read(document)
    with connect(url) as client:
        job = client.submit(body, idempotency=key, tags=tag or (), description=description, team=team)
        show_posted(client, job, watch, output)


def show_posted(client: Client, job: Job, watch: bool, output: Format) -> None:
    """Prints a posted job's id, and follows the job where that is wanted."""
    warnings([row.document() for row in job.warnings])
    if not watch:
        put(output, job.document(), job.id)
        return
    from fedgalore_cli.jobs.watching import follow

    if output is Format.TABLE:
        typer.echo(job.id)
    else:
        record(output, job.document())
    follow(client, job.id, output)


def show_review(answer: dict[str, Any], output: Format) -> None:
    """Prints what a document would be as a job, and on stderr what the coordinator warned of; ends where it is none."""
    warnings(answer["warnings"])
    if not answer["valid"]:
        fail("; ".join(f"{row['field']}: {row['problem']}" for row in answer["errors"]) + " [invalid_job]")
    put(output, answer, lambda: typer.echo(as_yaml(answer["spec"]), nl=False))


def _read(document: Path) -> Path | bytes:
    return sys.stdin.buffer.read() if str(document) == "-" else document


def _parsed(document: Path) -> Any:
    """The document as a job with its defaults, as the coordinator would show it."""
    from fedgalore.client.calls import JSON, encoded
    from fedgalore.spec import job as job_spec

    body, kind = encoded(_read(document))
    try:
        return job_spec.read(body, str(document), is_json=kind == JSON).model_dump(mode="json")
    except job_spec.SpecError as error:
        fail(str(error))
