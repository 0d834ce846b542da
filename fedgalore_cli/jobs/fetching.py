"""`fedgalore jobs download` and `adapter`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fedgalore_cli.errors import fail
from fedgalore_cli.options import Format, JobId, Output, Url, connect
from fedgalore_cli.output import bytes_bar, note, put

Folder = Annotated[Path, typer.Option("--to", metavar="DIR", help="Folder to create; it must be new or empty.")]
Version = Annotated[
    str,
    typer.Option(
        metavar="last|best|N", help="Version of the model: the newest, the best by evaluation.keep, or one by number."
    ),
]


def download(job: JobId, to: Folder, version: Version = "last", url: Url = None, output: Output = Format.TABLE) -> None:
    """Fetch a job's model as a folder that transformers' `from_pretrained` loads."""
    from fedgalore.client import Hooks

    _check(version)
    with connect(url) as client, bytes_bar("model") as told:
        client.model(job, to, version=version, hooks=Hooks(told, _waiting))
    put(output, {"job": job, "folder": str(to)}, str(to))


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
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Fetch what a job taught its model as a LoRA adapter: a folder that PEFT's `PeftModel.from_pretrained` loads.

    It works for every method. The folder's README.md says how to load the adapter. Its fedgalore.json says which share
    of the change the adapter keeps, matrix by matrix.
    """
    from fedgalore.client import Hooks

    _check(version)
    with connect(url) as client, bytes_bar("adapter") as told:
        client.adapter(job, to, rank=rank, version=version, hooks=Hooks(told, _waiting))
    kept = json.loads((to / "fedgalore.json").read_bytes())["energy_kept"]
    note(f"rank {rank} keeps {100 * kept:.1f} % of the change's energy")
    put(output, {"job": job, "folder": str(to), "rank": rank, "energy_kept": kept}, str(to))


def _check(version: str) -> None:
    if version not in ("last", "best") and not version.isdecimal():
        fail(f"--version: {version!r} is no version; say last, best, or a version's number")


def _waiting(words: str) -> None:
    note(f"waiting: {words}")
