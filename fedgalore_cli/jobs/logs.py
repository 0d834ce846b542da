"""`fedgalore jobs logs`: what happened to a job, in words."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from fedgalore_cli.jobs.following import interruptible
from fedgalore_cli.options import Format, JobId, Output, Url, connect
from fedgalore_cli.output import listing, record

if TYPE_CHECKING:
    from fedgalore.client import Client, LogLine

FOLLOW_S = 2.0
MOST_EVENTS = 500  # that the coordinator tells at once
Level = Literal["debug", "info", "warning", "error"]
LEVELS = get_args(Level)  # the least first


def logs(
    job: JobId,
    level: Annotated[Level, typer.Option(help="The least that is told; debug has each phase and each task.")] = "info",
    tail: Annotated[int | None, typer.Option(min=1, max=MOST_EVENTS, help="Only so many of the newest events.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with new lines, until the job is final.")
    ] = False,
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Print what happened to a job: rounds, clients that were late, failed or left out and why, who steered it."""
    with connect(url) as client:
        if follow:
            with interruptible(job):
                _follow(client, job, level, tail, output)
            return
        lines = client.logs(job, level=level, tail=tail)
    nothing = "nothing has happened of this level yet; `--level debug` has more"
    rows = [line.document() for line in lines]
    listing(output, "lines", rows, lambda: typer.echo("\n".join(map(_words, lines))), nothing)


def _follow(client: Client, job: str, level: Level, tail: int | None, output: Format) -> None:
    after: str | None = None
    hidden = LEVELS[: LEVELS.index(level)]
    while True:
        final = client.job(job).is_final  # as of before the look: whatever it did is in its log by then
        # All levels: the id of what is not told says, too, where the next look begins.
        lines = client.logs(job, level="debug", after=after, tail=tail if after is None else None)
        for line in lines:
            after = line.id
            if line.level in hidden:
                continue
            if output is Format.TABLE:
                typer.echo(_words(line))
            else:
                record(output, line.document())
        if final:
            return
        time.sleep(FOLLOW_S)


def _words(line: LogLine) -> str:
    """A line that can be cut by columns: time in UTC, level, round and client, and what happened."""
    where = [f"round {line.round}"] if line.round is not None else []
    where += [line.client] if line.client is not None else []
    return f"{line.at:%Y-%m-%d %H:%M:%S} {line.level:7} {': '.join([*where, line.text])}"
