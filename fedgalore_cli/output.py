"""What commands print: a document on stdout in the format that was asked for, remarks on stderr."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from fedgalore_cli.options import Format, chosen


def put(output: Format, document: Any, people: Callable[[], None] | str) -> None:
    """Prints the document, or what people are shown in its place: a line, or what the function prints."""
    if output is Format.JSON:
        typer.echo(json.dumps(document, indent=2))
    elif output is Format.YAML:
        typer.echo(as_yaml(document), nl=False)
    elif isinstance(people, str):
        typer.echo(people)
    else:
        people()


def record(output: Format, document: Any) -> None:
    """Prints one of many documents: a JSON object a line, or a YAML document in a stream."""
    if output is Format.YAML:
        typer.echo(f"---\n{as_yaml(document)}", nl=False)
    else:
        typer.echo(json.dumps(document, allow_nan=False))


def listing(output: Format, name: str, rows: Sequence[Any], people: Callable[[], None], nothing: str) -> None:
    """Prints a list. Where it is empty, people are told on stderr what to do."""

    def shown() -> None:
        if rows:
            people()
        else:
            note(nothing)

    put(output, {name: rows}, shown)


def note(words: str) -> None:
    """A remark on stderr, unless the command is to be quiet."""
    if not chosen.quiet:
        typer.echo(words, err=True)


def warnings(rows: Sequence[Mapping[str, Any]]) -> None:
    """A line on stderr for each thing that the coordinator warned of."""
    for row in rows:
        note(f"warning: {row['field']}: {row['problem']}")


def as_yaml(document: Any) -> str:
    """A document as people write it, in the order of its keys."""
    from fedgalore.spec.documents import write_yaml

    return write_yaml(document, allow_unicode=True, width=100)


@contextmanager
def bytes_bar(what: str) -> Iterator[Callable[[int, int | None], None]]:
    """Yields a function that draws how many bytes of how many have come; draws nothing where nobody looks."""
    from rich.progress import DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    with _bar(what, DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()) as draw:
        yield draw


@contextmanager
def rounds_bar() -> Iterator[Callable[[int, int | None], None]]:
    """As `bytes_bar`, of rounds."""
    from rich.progress import MofNCompleteColumn, TimeElapsedColumn

    with _bar("rounds", MofNCompleteColumn(), TimeElapsedColumn()) as draw:
        yield draw


@contextmanager
def _bar(what: str, *columns: Any) -> Iterator[Callable[[int, int | None], None]]:
    from rich.progress import BarColumn, Progress, TextColumn

    from fedgalore_cli.show.console import console

    out = console(stderr=True)
    hidden = chosen.quiet or not out.is_terminal
    first = (TextColumn("{task.description}"), BarColumn(bar_width=20))
    with Progress(*first, *columns, console=out, transient=True, disable=hidden) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
