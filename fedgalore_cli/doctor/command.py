"""`fedgalore doctor`: all looks, one line each."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from fedgalore_cli.doctor.finding import Finding, Level
from fedgalore_cli.exits import Exit
from fedgalore_cli.options import Format, Output, Url
from fedgalore_cli.output import put

COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}


def doctor(
    agent: Annotated[
        Path | None,
        typer.Option("--agent", help="Config of a site's agent: look at what that needs, and no coordinator."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML file of the coordinator's settings, where it runs here.")
    ] = None,
    url: Url = None,
    output: Output = Format.TABLE,
) -> None:
    """Say what this machine lacks for its part in a federation, and what to do: a line for each thing.

    Looks at versions, threads, memory and GPU; at what a coordinator needs here by its settings (Redis and its policy,
    disk, bucket, ports, certificates and their ends), or with --agent at what a site needs; and at the coordinator that
    commands talk to. Changes nothing: into a bucket it writes a byte, which it deletes. Exit status 1 where something
    fails.
    """
    from fedgalore_cli.doctor import coordinator, door, machine, site

    found = [*machine.machine()]
    found += site.site(agent) if agent is not None else coordinator.coordinator(config)
    found += door.door(url)
    put(output, {"findings": [asdict(each) for each in found]}, lambda: _show(found))
    if any(each.level is Level.FAIL for each in found):
        raise typer.Exit(Exit.FAILED)


def _show(found: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    from fedgalore_cli.show.console import console

    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for wraps in (False, False, True):
        table.add_column(no_wrap=not wraps, overflow="fold")
    for each in found:
        table.add_row(Text(each.level, COLOURS[each.level]), each.about, each.told)
    console().print(table)
