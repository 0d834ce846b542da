"""Secrets that are shown once: printed, or written to a file that only its owner can read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from fedgalore.process import durable
from fedgalore_cli.errors import fail

Out = Annotated[
    Path | None,
    typer.Option(help="Write the secret to this new file, readable by its owner alone, and do not print it."),
]


@contextlib.contextmanager
def new(path: Path) -> Iterator[BinaryIO]:
    """A new file that only its owner can read, opened before the secret exists. If that fails, the command ends.

    The secret survives a power cut once the block has been left, because nobody can show it a second time.
    """
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(durable.new_file_survives_power_cut(path, durable.SECRET))
        except FileExistsError:
            fail(f"{path} exists already; name another file, or remove it")
        except OSError as error:
            fail(f"{path} cannot be written ({error}); name another file")
        yield file


@contextlib.contextmanager
def teller(out: Path | None) -> Iterator[Callable[[str, str], None]]:
    """Yields a function that shows a secret and its description. The description goes to stderr, the secret to `out`.

    Without `out` the secret goes to stdout, so that a pipe gets the secret alone.
    """
    if out is None:
        yield _print
        return
    with new(out) as file:

        def put(secret: str, what: str) -> None:
            file.write(secret.encode() + b"\n")
            typer.echo(f"{what}; it is in {out}", err=True)

        yield put


def _print(secret: str, what: str) -> None:
    typer.echo(f"{what}; it is shown this once:", err=True)
    typer.echo(secret)
