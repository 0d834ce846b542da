"""`fedgalore models`: what can be downloaded."""

from __future__ import annotations

from typing import Annotated

import typer

from fedgalore_cli.jobs.looking import Tags
from fedgalore_cli.options import Format, Output, Url, connect
from fedgalore_cli.output import listing

app = typer.Typer(help="See the models of all jobs.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """A group, also while it has one command."""


@app.command("list")
def list_models(
    name: Annotated[str, typer.Option(help="Only of jobs with this in their name.")] = "",
    tag: Tags = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most, of the newest jobs first.")] = 50,
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """List the models of jobs with their newest version; `jobs download` fetches one."""
    from fedgalore_cli.show import lists

    with connect(url) as client:
        rows = [model.document() for model in client.models(name=name, tag=tag or (), limit=limit)]
    nothing = "there are no such models: a job has one once its first version is prepared"
    listing(output, "models", rows, lambda: lists.models(rows), nothing)
