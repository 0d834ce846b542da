"""Secrets that are shown once: printed, or written to a file that only its owner reads."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cli.client import fail

Out = Annotated[
    Path | None,
    typer.Option(help="Write the secret to this new file, readable by its owner alone, and do not print it."),
]


def write(path: Path, secret: bytes) -> None:
    """Makes a file of mode 0600; one that exists already ends the command."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
    except FileExistsError:
        fail(f"{path} exists already: name another file, or remove it")
    except OSError as error:
        fail(f"{path} can not be written ({error})")


def tell(secret: str, out: Path | None, what: str) -> None:
    """Hands out a new secret; what it is goes to stderr, so that a pipe gets the secret alone."""
    if out is None:
        typer.echo(f"{what}; it is shown this once:", err=True)
        typer.echo(secret)
    else:
        write(out, secret.encode() + b"\n")
        typer.echo(f"{what}; it is in {out}", err=True)
