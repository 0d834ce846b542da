"""Secrets that are shown once: printed, or written to a file that only its owner can read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from fedgalore.process import durable
from fedgalore_cli.errors import fail
from fedgalore_cli.options import Format
from fedgalore_cli.output import note, put

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


Tell = Callable[[str, str, dict[str, Any], str], None]


@contextlib.contextmanager
def teller(out: Path | None, output: Format) -> Iterator[Tell]:
    """Yields a function that shows a secret, its description, and the document that has it in a field of this name.

    The description goes to stderr, the secret to `out`; then the document on stdout lacks it. Without `out` the secret
    goes to stdout alone, so that a pipe gets nothing else, or in the document, where that is asked for.
    """
    if out is None:

        def show(secret: str, what: str, document: dict[str, Any], name: str) -> None:
            note(f"{what}; it is shown this once:")
            put(output, document, secret)

        yield show
        return
    with new(out) as file:

        def write(secret: str, what: str, document: dict[str, Any], name: str) -> None:
            file.write(secret.encode() + b"\n")
            note(f"{what}; it is in {out}")
            put(output, {key: value for key, value in document.items() if key != name}, lambda: None)

        yield write
