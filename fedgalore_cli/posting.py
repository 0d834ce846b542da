"""`fedgalore jobs validate` and `submit`: a job's document on its way to the coordinator."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedgalore_cli.client import DEFAULT_URL, JOBS, AsJson, Coordinator, Url
from fedgalore_cli.errors import fail

Document = Annotated[Path, typer.Argument(metavar="FILE", help="The job as YAML or JSON; `-` reads YAML from stdin.")]
Key = Annotated[
    str | None, typer.Option(help="Idempotency key: submitting again with the same key creates no second job.")
]
Watch = Annotated[
    bool, typer.Option("--watch", help="Then follow the job, and end with its exit status, as `watch` does.")
]


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
            answer = tried(coordinator, body, kind)
    if as_json:
        show.as_json(answer)
    else:
        show.trial(answer)


def submit(document: Document, url: Url = DEFAULT_URL, key: Key = None, watch: Watch = False) -> None:
    """Post a job and print its id. Warns of what would keep its rounds waiting."""
    body, kind = _read(document)
    with Coordinator(url) as coordinator:
        post(coordinator, body, kind, key, watch)


def tried(coordinator: Coordinator, body: bytes, kind: str, key: str | None = None) -> Any:
    """What the document would be as a job, by a dry run; a refusal ends the command. `kind`: its media type."""
    return coordinator.ask("POST", JOBS, params={"dry_run": True}, content=body, headers=_headers(kind, key))


def post(coordinator: Coordinator, body: bytes, kind: str, key: str | None, watch: bool) -> None:
    """Posts the document, prints the job's id, and follows the job where that is wanted."""
    from fedgalore_cli import show

    job = coordinator.ask("POST", JOBS, content=body, headers=_headers(kind, key))
    show.warnings(job["warnings"])
    typer.echo(job["id"])
    if watch:
        from fedgalore_cli.watch import watch as follow

        follow(coordinator, job["id"])


def _headers(kind: str, key: str | None) -> dict[str, str]:
    return {"Content-Type": kind} | ({"Idempotency-Key": key} if key is not None else {})


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
